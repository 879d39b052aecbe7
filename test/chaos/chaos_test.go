// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestTableIsWide(t *testing.T) {
	all := plans(table, false, nil, 1)
	kinds := map[string]bool{}
	for _, p := range all {
		kinds[p.fault] = true
	}
	if len(kinds) < 16 { // fifteen, and none
		t.Errorf("only %d kinds of fault", len(kinds))
	}
	if all[0].fault != noFault {
		t.Errorf("the first run breaks %s", all[0].fault)
	}
	if n := len(plans(table, true, nil, 1)); n < 8 || n > 16 {
		t.Errorf("the short table has %d runs", n)
	}
}

// Who begins a new workload waits for it: the runs with one come together.
func TestRunsOfAWorkloadComeTogether(t *testing.T) {
	all := plans(table, false, nil, 1)
	seen := map[workload]bool{}
	for i, p := range all {
		if i > 0 && p.of == all[i-1].of {
			continue
		}
		if seen[p.of] || p.fault != noFault {
			t.Errorf("%s begins a workload", p.name())
		}
		seen[p.of] = true
	}
	if len(seen) != 3 {
		t.Errorf("workloads are %v", seen)
	}
	if n := len(plans(owners, true, nil, 1)); n != 1 {
		t.Errorf("the short table has %d runs with owners", n)
	}
}

func TestTableIsSound(t *testing.T) {
	names := map[string]bool{}
	for _, r := range table {
		f, known := faults[r.fault]
		if !known {
			t.Errorf("nobody can inject %s", r.fault)
		}
		if f.says == "" {
			t.Errorf("%s is not explained", r.fault)
		}
		for _, s := range r.steps {
			p := newPlan(r.fault, r.of, s, 1)
			if names[p.name()] {
				t.Errorf("two runs are called %s", p.name())
			}
			names[p.name()] = true
			if s.process != "" && f.local != nil && !f.anywhere && f.where != s.where {
				t.Errorf("%s: what is seen is not where the fault is", p.name())
			}
			if s.lead != nil {
				if _, known := faults[s.lead.fault]; !known {
					t.Errorf("%s: nobody can inject %s", p.name(), s.lead.fault)
				}
			}
		}
		for _, s := range append(slices.Clone(r.quick), r.only...) {
			if !has(r.steps, s) {
				t.Errorf("%s: %s is not in the whole table", r.fault, s.name)
			}
		}
	}
}

var mark = regexp.MustCompile(`failpoint\.(At|In)\("([a-z-]+)"`)

// Every point of the table is a mark in the code, and every mark is tried.
func TestPointsAreMarked(t *testing.T) {
	out, err := exec.Command("git", "grep", "-h", "failpoint\\.\\(At\\|In\\)(", "--", "../../cmd", "../../controllers", "../../node-agent").Output()
	if err != nil {
		t.Fatalf("git grep: %v", err)
	}
	marks := map[string]string{}
	for _, m := range mark.FindAllStringSubmatch(string(out), -1) {
		marks[m[2]] = m[1]
	}
	used := map[string]bool{}
	for _, r := range table {
		for _, s := range r.steps {
			points := []string{s.point}
			if s.lead != nil {
				points = append(points, s.lead.point)
			}
			for _, p := range points {
				if p == "" {
					continue
				}
				name := p
				if i := strings.LastIndexByte(p, '-'); marks[p] == "" && marks[p[:i]] == "In" {
					name = p[:i]
				}
				if marks[name] == "" {
					t.Errorf("there is no mark %s", p)
				}
				used[name] = true
			}
		}
	}
	for m := range marks {
		if !used[m] && m != "source-aborted" { // only a fault of its own leads there
			t.Errorf("nothing is tried at the mark %s", m)
		}
	}
}

func TestPlansAreRepeatable(t *testing.T) {
	a, b := plans(table, false, nil, 7), plans(table, false, nil, 7)
	if !slices.Equal(a, b) {
		t.Error("the same seed gives other runs")
	}
	if slices.Equal(a, plans(table, false, nil, 8)) {
		t.Error("another seed gives the same runs")
	}
	// Alone a run is what it is among others.
	one := plans(table, false, regexp.MustCompile("^"+regexp.QuoteMeta(a[3].name())+"$"), 7)
	if len(one) != 1 || one[0] != a[3] {
		t.Errorf("%+v, want %+v", one, a[3])
	}
}
