// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Package controllers holds the manager's reconcilers. Each one reads the
// world, asks internal/migration what to do, does it and stores the result; it
// keeps nothing in memory that it could not read again.
package controllers
