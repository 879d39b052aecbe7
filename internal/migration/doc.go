// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Package migration is the core of Godwit: what to do next, as pure functions
// over what was observed. It has no clock, does no I/O and remembers nothing.
//
//   - Decide drives the phases (for the controller),
//   - DecideSource and DecideTarget drive the two node agents,
//   - Converge decides after each pre-copy round,
//   - ChooseMoment decides when a pod that has converged is frozen,
//   - CheckPod, EligibleNodes and BuildTargetPod say what can move where, and as what.
//
// The states and the rules that keep them safe are in docs/protocol.md.
package migration
