// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"godwit.dev/godwit/test/chaos/continuity"
)

// fine is a run in which all went well.
func fine() observed {
	return observed{log: continuity.Verdict{Copies: 1, Records: 9, Silence: time.Second}, onNodes: 1, settled: true, movedOn: true, reached: true}
}

func TestJudge(t *testing.T) {
	const how = "its node lost power"
	for name, c := range map[string]struct {
		change   func(*observed)
		onlyCopy string
		outcome  string
		passed   bool
	}{
		"all is well":             {func(*observed) {}, "", moved, true},
		"it stays":                {func(o *observed) { o.movedOn = false }, "", stayed, true},
		"two copies in the log":   {func(o *observed) { o.log.Copies, o.log.Problems = 2, []string{"two"} }, "", moved, false},
		"two copies on the nodes": {func(o *observed) { o.onNodes = 2 }, "", moved, false},
		"a number is lost":        {func(o *observed) { o.log.Lost, o.log.Problems = 1, []string{"lost"} }, "", moved, false},
		"a number is repeated":    {func(o *observed) { o.log.Repeated, o.log.Problems = 1, []string{"again"} }, "", moved, false},
		"it was started afresh":   {func(o *observed) { o.log.Restarts, o.log.Problems = 1, []string{"fresh"} }, "", moved, false},
		"something is left":       {func(o *observed) { o.leftovers = []string{"n1: frozen cgroup x"} }, "", moved, false},
		"it does not settle":      {func(o *observed) { o.settled = false }, "", stuck, false},
		"the step is not reached": {func(o *observed) { o.reached = false }, "", invalid, false},
		"something else fails":    {func(o *observed) { o.errs = []error{errors.New("no")} }, "", moved, false},

		"lost with its node": {func(o *observed) { o.log.Restarts, o.log.Problems = 1, []string{"fresh"} }, how, lost, true},
		"it returned":        {func(o *observed) { o.log.Returned, o.log.Problems = 1, []string{"back"} }, "", moved, false},

		"lost, and a person decides":              {func(o *observed) { o.resolved = true }, how, lost, true},
		"a person decides about nothing lost":     {func(o *observed) { o.resolved = true }, "", moved, false},
		"lost with its node, goes on from before": {func(o *observed) { o.log.Returned, o.log.Repeated = 5, 1 }, how, lost, true},
		"lost with its node, and copied":          {func(o *observed) { o.log.Restarts, o.log.Copies, o.log.Problems = 1, 2, []string{"two"} }, how, lost, false},
		"lost with its node, twice":               {func(o *observed) { o.log.Restarts = 2 }, how, lost, false},
		"the node had a spare copy":               {func(*observed) {}, how, moved, true},
	} {
		t.Run(name, func(t *testing.T) {
			o := fine()
			c.change(&o)
			var r result
			judge(&r, plan{fault: "f", step: step{name: "s"}, onlyCopy: c.onlyCopy}, o)
			if r.Passed != c.passed || r.Outcome != c.outcome || r.Passed != (len(r.Problems) == 0) {
				t.Errorf("%+v", r)
			}
			if (r.Excepted != "") != (c.outcome == lost) {
				t.Errorf("excepted %q", r.Excepted)
			}
		})
	}
	var r result
	o := fine()
	o.movedOn = false
	if judge(&r, plan{fault: noFault}, o); r.Passed {
		t.Error("nothing happened, it did not move, and that passed")
	}
}

func TestStoreAndRender(t *testing.T) {
	dir := t.TempDir()
	array := filepath.Join(dir, "chaos.json")
	s, err := newStore(array, filepath.Join(dir, "chaos.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []result{
		{Run: "cancel/frozen", Fault: "cancel", Step: "frozen", Outcome: stayed, Passed: true, FrozenMS: 1500},
		{Run: "kill-manager/StatefulSet/source-given-up", Workload: "StatefulSet", Fault: "kill-manager", Step: "source given up", Outcome: moved, Passed: true},
		{Run: "none/-", Fault: "none", Step: "-", Outcome: moved, Problems: []string{"left over: image x"}},
		{Run: "kill-criu/frozen", Fault: "kill-criu", Step: "frozen", Skipped: true},
	} {
		if err := s.add(r); err != nil {
			t.Fatal(err)
		}
	}
	if p, f, skipped := s.counts(); p != 2 || f != 1 || skipped != 1 {
		t.Errorf("%d passed, %d failed, %d skipped", p, f, skipped)
	}
	results, err := readResults(array, array)
	if err != nil || len(results) != 3 {
		t.Fatalf("%d results, %v", len(results), err)
	}
	var page bytes.Buffer
	if err := render(&page, results); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{": 2 passed, 1 failed", "| StatefulSet | kill-manager | source given up | moved |", "| cancel | frozen | stayed | 0 | 0 | 0 | 1.5 s |", "left over: image x"} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("the page lacks %q:\n%s", want, page.String())
		}
	}
	if none, cancel := strings.Index(page.String(), "| none | -"), strings.Index(page.String(), "| cancel | frozen"); none > cancel {
		t.Error("the page is not in the table's order")
	}
}

func TestCopiesOnTheNodes(t *testing.T) {
	at := func(ms int64) time.Time { return time.UnixMilli(ms) }
	looks := func(from int64, running ...string) []look {
		var all []look
		for i, r := range running {
			all = append(all, look{at(from + int64(i)*250), strings.Fields(r)})
		}
		return all
	}
	for name, c := range map[string]struct {
		n1, n2 []look
		want   int
	}{
		"nobody":                      {looks(0, "", "", ""), looks(0, "", ""), 0},
		"one":                         {looks(0, "a", "a", "a"), looks(0, "", "", ""), 1},
		"it moves":                    {looks(0, "a", "a", "", "", ""), looks(100, "", "", "", "b", "b"), 1},
		"both":                        {looks(0, "a", "a", "a", "a"), looks(100, "", "b", "b", "b"), 2},
		"two on one node":             {looks(0, "a", "a c", "a c"), nil, 2},
		"seen once while it is ended": {looks(0, "a", "", "", "a", "", ""), looks(100, "", "", "b", "b", "b", "b"), 1},
	} {
		if got := mostAtOnce(append(stretches("n1", c.n1), stretches("n2", c.n2)...)); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
	l, err := parseLook("1700000000.123456 x/1 y/2")
	if err != nil || l.at != time.UnixMicro(1700000000123456) || len(l.running) != 2 {
		t.Errorf("%+v, %v", l, err)
	}
}
