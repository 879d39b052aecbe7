// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Package redisload fills a Redis server, keeps writing and reading, and
// remembers every write that the server has acknowledged, so that it can tell
// afterwards whether one of them was lost.
//
// A value is made from its key's number and version alone and cannot be
// compressed. So the memory of what was acknowledged is one version per key,
// and every byte of every value can be checked.
package redisload
