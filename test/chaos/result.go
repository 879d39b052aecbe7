// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"godwit.dev/godwit/test/chaos/continuity"
)

// The outcomes of a run.
const (
	moved   = "moved"
	stayed  = "stayed"
	lost    = "lost"
	stuck   = "stuck"
	invalid = "step not reached"
)

// result is one object of artifacts/chaos.json.
type result struct {
	Run string `json:"run"`
	// Workload is the kind of the pod's workload controller; empty when it has none.
	Workload string `json:"workload,omitempty"`
	Fault    string `json:"fault"`
	Step     string `json:"step"`
	Seed     uint64 `json:"seed"`
	Outcome  string `json:"outcome"`
	// CopiesRunning is the most ever seen at once, by the log or on the nodes.
	CopiesRunning int `json:"copiesRunning"`
	NumbersLost   int `json:"numbersLost"`
	// NumbersRepeated came again though they were acknowledged.
	NumbersRepeated int `json:"numbersRepeated"`
	// Returned is the number of writes from a pod that another had taken over from.
	Returned int `json:"returned"`
	// Restarts of the program from its image.
	Restarts int `json:"restarts"`
	// FrozenMS is the longest time without a number in the log.
	FrozenMS int64 `json:"frozenMs"`
	// RecoverMS is the time from the end of the fault until the migration was
	// over and the log heard from the pod that was to have the process.
	RecoverMS int64    `json:"recoverMs"`
	Leftovers []string `json:"leftovers"`
	// Resolved: a person had to decide, and let the source go on.
	Resolved bool `json:"resolved,omitempty"`
	// Excepted names the loss that nothing can prevent, if it was one.
	Excepted string `json:"excepted,omitempty"`
	// From and To are nodes, Phase is how the migration ended.
	From  string `json:"from"`
	To    string `json:"to"`
	Phase string `json:"phase,omitempty"`
	// Skipped runs were not begun, for lack of time (BEGIN_UNTIL).
	Skipped bool `json:"skipped,omitempty"`
	// Passed is the verdict, Problems explain it.
	Passed   bool     `json:"passed"`
	Problems []string `json:"problems,omitempty"`
}

// observed is what was seen of a run.
type observed struct {
	log continuity.Verdict
	// onNodes is the most copies seen running at once on the nodes.
	onNodes   int
	leftovers []string
	// settled: the migration ended and exactly one pod writes to the log;
	// movedOn: it is the target.
	settled, movedOn bool
	// resolved: a person had to decide.
	resolved bool
	// reached: the fault was injected where it should have been.
	reached bool
	errs    []error
}

// judge puts the verdict into a result.
func judge(r *result, p plan, o observed) {
	r.CopiesRunning = max(o.log.Copies, o.onNodes)
	r.NumbersLost, r.NumbersRepeated, r.Restarts = o.log.Lost, o.log.Repeated, o.log.Restarts
	r.FrozenMS = o.log.Silence.Milliseconds()
	r.Leftovers = slices.Clone(o.leftovers)
	if r.Leftovers == nil {
		r.Leftovers = []string{}
	}
	r.Returned, r.Resolved = o.log.Returned, o.resolved
	// When the only copy that ran is lost, the pod starts afresh, or goes on from
	// what was frozen before.
	accepted := p.onlyCopy != "" && (r.Restarts > 0 || r.Returned > 0 || r.NumbersRepeated > 0 || r.Resolved)
	switch {
	case !o.reached:
		r.Outcome = invalid
	case !o.settled:
		r.Outcome = stuck
	case accepted:
		r.Outcome = lost
		r.Excepted = "the only running copy was lost: " + p.onlyCopy
	case o.movedOn:
		r.Outcome = moved
	default:
		r.Outcome = stayed
	}
	r.Problems = nil
	for _, err := range o.errs {
		r.Problems = append(r.Problems, err.Error())
	}
	problem := func(format string, args ...any) { r.Problems = append(r.Problems, fmt.Sprintf(format, args...)) }
	if o.onNodes > 1 {
		problem("%d copies were seen running on the nodes at the same time", o.onNodes)
	}
	// The log's own words say what a number is about.
	if o.log.Copies > 1 || o.log.Lost > 0 || !accepted && o.log.Repeated+o.log.Returned+o.log.Restarts > 0 {
		r.Problems = append(r.Problems, o.log.Problems...)
	}
	if r.Resolved && !accepted {
		problem("a person had to decide")
	}
	if accepted && o.log.Restarts > 1 {
		problem("started afresh %d times", o.log.Restarts)
	}
	if !o.settled {
		problem("it did not settle")
	}
	if !o.reached {
		problem("the step was not reached")
	}
	if p.fault == noFault && r.Outcome != moved {
		problem("nothing happened to it, and it did not move")
	}
	for _, l := range r.Leftovers {
		problem("left over: %s", l)
	}
	r.Passed = len(r.Problems) == 0
}

// store appends results to a file of lines as they come, and writes the array.
type store struct {
	array, lines string
	all          []result
}

// newStore begins anew.
func newStore(array, lines string) (*store, error) {
	for _, f := range []string{array, lines} {
		if err := os.Remove(f); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return &store{array: array, lines: lines, all: []result{}}, nil
}

func (s *store) add(r result) error {
	s.all = append(s.all, r)
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(s.lines, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(append(line, '\n'))
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	array, err := json.MarshalIndent(s.all, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(s.array, append(array, '\n'), 0o644)
}

// counts of passed, failed and skipped runs.
func (s *store) counts() (passed, failed, skipped int) {
	for _, r := range s.all {
		switch {
		case r.Skipped:
			skipped++
		case r.Passed:
			passed++
		default:
			failed++
		}
	}
	return passed, failed, skipped
}

// readResults reads arrays of results. A later result of a run takes the place
// of an earlier one.
func readResults(files ...string) ([]result, error) {
	var all []result
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		var some []result
		if err := json.Unmarshal(data, &some); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		for _, r := range some {
			if r.Skipped {
				continue
			}
			i := slices.IndexFunc(all, func(o result) bool { return o.Run == r.Run })
			if i < 0 {
				all = append(all, r)
			} else {
				all[i] = r
			}
		}
	}
	return all, nil
}
