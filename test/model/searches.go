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
	// keepsName: the model of a pod that keeps its name.
	keepsName bool
}

func without(name, guard, expected string) variant {
	return variant{name: name, without: []string{guard}, faults: 2, expected: expected}
}

// ofNames takes guards away from the model of a pod that keeps its name.
func ofNames(name string, faults int, expected string, guards ...string) variant {
	return variant{name: "keeps its name: " + name, without: guards, faults: faults, expected: expected, keepsName: true}
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

	ofNames("the protocol", 2, nothing),
	ofNames("restored into the placeholder", 1, something, "NO_PLACEHOLDER"),
	ofNames("source deleted before it is given up", 1, lost, "NO_DELETE_CONFIRMED"),
	ofNames("images removed in Replacing", 1, lost, "NO_IMAGES_STAY"),
	ofNames("Completing without Restored", 1, lost, "NO_COMPLETE_RESTORED"),
	ofNames("an ordinary pod takes the name", 1, fresh, "NO_POLICY"),
	ofNames("controller writes without version test", 1, past, "NO_ABORT_VERSION"),
	ofNames("another pod named after a restore began", 2, past, "NO_MAY_FOLLOW"),
	ofNames("restore begins before it is published", 1, past, "NO_BEGUN_FIRST"),
	ofNames("pod not read again past the cache", 1, something, "NO_LIVE_UID"),
	ofNames("restored again in another boot", 1, past, "NO_BOOT"),
	ofNames("restored again without proof", 2, past, "NO_RETRY_PROOF"),
	ofNames("failed restore forgotten once more, late", 2, past, "NO_RETRY_ONCE"),
	ofNames("mark of a removed target swept", 1, past, "NO_MARK_KEPT"),
	ofNames("report of another pod than is cached", 1, past, "NO_LOAD_AGREES"),
	ofNames("report of the pod before stays", 1, stuck, "NO_FORGETS"),

	// Two guards against the same, as above.
	ofNames("given back in Replacing, rule left", 1, nothing, "NO_RECLAIM_EARLY"),
	ofNames("no rule against it, decision left", 1, nothing, "NO_RULE"),
	ofNames("given back in Replacing, no rule", 1, lost, "NO_RECLAIM_EARLY", "NO_RULE"),
	ofNames("taken back in Replacing, rule left", 1, nothing, "NO_RETRY"),
	ofNames("taken back in Replacing, no rule", 1, lost, "NO_RETRY", "NO_RULE"),
	// Not needed: what the webhook lets through the controller does not name.
	ofNames("a pod steered after a restore began", 1, nothing, "NO_MAY_STEER"),
}
