// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Package harness is what the end-to-end tests and the demonstration share:
// access to the cluster they run in, installing the chart, the workloads that
// move, and looking at the nodes. Programs that use it run inside the
// cluster's network namespace; see the cluster tool's verb exec.
package harness
