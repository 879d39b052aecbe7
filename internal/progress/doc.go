// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Package progress tells people how a migration goes, from nothing but its
// status: live, as lines that are drawn again or printed once each, and
// afterwards, as a summary with a table of the rounds.
package progress
