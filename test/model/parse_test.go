// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"os"
	"regexp"
	"testing"
)

const complete = "State-vector 44 byte, depth reached 48, errors: 0\n  1029295 states, stored\n"

func TestParse(t *testing.T) {
	broken := "(Search not completed)\nState-vector 44 byte, depth reached 9, errors: 1\n 12 states, stored\n"
	for name, test := range map[string]struct{ out, want string }{
		"nothing found": {complete, nothing},
		"an invariant":  {"pan:1: assertion violated ( !(((src==0)&&(tree==4))&&(1==1)))||falseproof) (at depth 39)\n" + broken, twice},
		"another":       {"pan:1: assertion violated  !(((ran==1)&&(4==4))) (at depth 3)\n" + broken, past},
		"a dead end":    {"pan:1: invalid end state (at depth 3)\n" + broken, stuck},
		"a circle":      {"pan:1: non-progress cycle (at depth 3)\n" + broken, stuck},
	} {
		if o, err := parse(test.out); err != nil || o.Violation != test.want {
			t.Errorf("%s: %+v, %v, want %s", name, o, err, test.want)
		}
	}
	if o, err := parse(complete); err != nil || o.States != 1029295 || o.Depth != 48 {
		t.Errorf("%+v, %v", o, err)
	}
}

// A search that was cut short has proved nothing.
func TestIncompleteSearchIsNoProof(t *testing.T) {
	for _, out := range []string{
		"pan: reached -DMEMLIM bound\n" + complete,
		"error: max search depth too small\n" + complete,
		"Warning: Search not completed\n" + complete,
	} {
		if _, err := parse(out); !errors.Is(err, errIncomplete) {
			t.Errorf("%q: %v", out, err)
		}
	}
	const dead = "unreached in proctype everything\n\thandover.pml:340, state 5, \"fly = 0\"\n\t(1 of 556 states)\n"
	if _, err := parse(complete + dead); !errors.Is(err, errUnreached) {
		t.Errorf("a step that is never taken: %v", err)
	}
	if _, err := parse(complete + "unreached in proctype everything\n\t(0 of 556 states)\n"); err != nil {
		t.Error(err)
	}
	if _, err := parse("gibberish"); err == nil {
		t.Error("gibberish is taken for a result")
	}
}

// Every guard of the model is taken away by some search, and only guards are.
func TestEveryGuardIsMutated(t *testing.T) {
	text, err := os.ReadFile("handover.pml")
	if err != nil {
		t.Fatal(err)
	}
	guards, mutated := map[string]bool{}, map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^#ifdef (NO_\w+)`).FindAllStringSubmatch(string(text), -1) {
		guards[m[1]] = true
	}
	for _, s := range searches {
		for _, g := range s.without {
			mutated[g] = true
			if !guards[g] {
				t.Errorf("%s takes away %s, which the model does not have", s.name, g)
			}
		}
	}
	for g := range guards {
		if !mutated[g] {
			t.Errorf("no search takes away %s", g)
		}
	}
	if len(guards) < 20 {
		t.Errorf("only %d guards found", len(guards))
	}
}
