// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Package integration runs whole migrations in seconds: the real controller and
// two real agents against a real API server, with nodes, kubelet, scheduler and
// runtime wrapper in memory. The fake processes count, and a ledger sees every
// count: a process that runs twice, loses a step or starts afresh is a failure.
package integration
