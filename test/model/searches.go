// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

// variant is the model with some guards taken away, and what its search has to
// show.
type variant struct {
	name     string
	without  []string
	faults   int
	expected string
	// cycles: look for runs that never end, instead of the invariants.
	cycles bool
}

func without(name, guard, expected string) variant {
	return variant{name: name, without: []string{guard}, faults: 2, expected: expected}
}

var searches = []variant{
	{name: "the protocol", faults: 4, expected: nothing},
	{name: "the protocol, runs that never end", faults: 2, expected: nothing, cycles: true},

	without("source aborts without register-empty test", "NO_ABORT_EMPTY", something),
	without("controller writes without version test", "NO_ABORT_VERSION", something),
	without("commit without verified image set", "NO_VERIFY", lost),
	without("target verifies without a digest", "NO_AWAIT_DIGEST", lost),
	without("source goes on without Aborted in the register", "NO_THAW_REGISTER", twice),
	without("source goes on after an unknown publication", "NO_ASK_REGISTER", twice),
	without("commit taken back by another than its writer", "NO_OWN_TAKEBACK", something),
	without("commit taken back without proof", "NO_TAKEBACK_PROOF", something),
	without("proof while the wrapper may still restore", "NO_WRAPPER_ENDED", something),
	without("take-back before the report says Failed", "NO_STATED", something),
	without("tree let go before the mark is written", "NO_MARK_FIRST", past),
	without("mark not looked for again after the kill", "NO_MARK_AGAIN", past),
	without("mark lost with the node's power", "NO_MARK_DURABLE", past),
	without("used image set restored again", "NO_ONCE", past),
	without("restore told on a stale register", "NO_LIVE_REGISTER", something),
	without("Restored reported without seeing the tree", "NO_SEEN_ALIVE", lost),
	without("used set's container afresh, target unconfirmed", "NO_FRESH_CONFIRMED", fresh),
	without("wrapper creates while the agent is away", "NO_FAIL_CLOSED", fresh),
	without("source deleted before Completing", "NO_DELETE_CONFIRMED", lost),
	without("Completing without Restored", "NO_COMPLETE_RESTORED", lost),
	without("freeze longer than the probes' patience", "NO_BUDGET", something),
	without("no fence on the source", "NO_FENCE", something),
	without("fence open while the agent is away", "NO_FENCE_CLOSED", fresh),
	without("fence lost with the node's power", "NO_FENCE_DURABLE", something),
	without("commit given up without proof of the node's end", "NO_NODE_PROOF", something),
	without("commit given up after Restored", "NO_NODE_UNRESTORED", past),
	without("returning target does not discard", "NO_COMEBACK", something),

	// Two guards against the same: each alone suffices, none does not.
	without("commit without register-empty test, rules of the API left", "NO_COMMIT_EMPTY", nothing),
	without("aborted register not final, tests left", "NO_FINAL", nothing),
	{name: "commit over an abort, neither test nor rule", without: []string{"NO_COMMIT_EMPTY", "NO_FINAL"}, faults: 2, expected: twice},
	without("source killed before its pod is gone, fence left", "NO_KILL_POD_GONE", nothing),
	{name: "no fence, no faults", without: []string{"NO_FENCE"}, faults: 0, expected: nothing},
	{name: "source killed before its pod is gone, no fence, no faults", without: []string{"NO_KILL_POD_GONE", "NO_FENCE"}, faults: 0, expected: fresh},

	// Not needed for an invariant: docs/protocol.md says what for.
	without("commit without phase test", "NO_COMMIT_PHASE", nothing),
	without("commit without digest test", "NO_COMMIT_DIGEST", nothing),
}
