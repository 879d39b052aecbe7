// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"hash/fnv"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"time"
)

// plan is one run: one migration with one fault at one step.
type plan struct {
	fault string
	// of says what the pod belongs to.
	of   workload
	step step
	// seed makes it the same run each time.
	seed uint64
	// hold is how long the migration is held after the fault, lasting how long
	// a fault with an end lasts, rounds the migration's limit of rounds.
	hold, lasting time.Duration
	rounds        int32
	// onlyCopy, if set, says how the fault ends the only copy that runs.
	onlyCopy string
}

// name is what RUN is matched with.
func (p plan) name() string {
	prefix := p.fault + "/"
	if p.of != bare {
		prefix += string(p.of) + "/"
	}
	return prefix + strings.ReplaceAll(strings.ReplaceAll(p.step.name, ",", ""), " ", "-")
}

// plans makes the runs of the table in an order that the seed chooses, those of one
// workload after the other, since each begins with a new one, and of these the run
// without a fault first: if that fails the others tell nothing.
func plans(rows []row, quick bool, filter *regexp.Regexp, seed uint64) []plan {
	var all []plan
	for _, r := range rows {
		steps := r.steps
		if quick {
			steps = r.quick
		}
		for _, s := range steps {
			p := newPlan(r.fault, r.of, s, seed)
			if has(r.only, s) {
				p.onlyCopy = r.how
			}
			if filter == nil || filter.MatchString(p.name()) {
				all = append(all, p)
			}
		}
	}
	random := rand.New(rand.NewPCG(seed, 1))
	random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	rank := func(p plan) int {
		if p.fault == noFault {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(all, func(a, b plan) int {
		return cmp.Or(cmp.Compare(a.of, b.of), cmp.Compare(rank(a), rank(b)))
	})
	return all
}

// newPlan derives all that is chosen at random from the seed and the name, so
// that a run is the same whether or not others come before it.
func newPlan(fault string, of workload, s step, seed uint64) plan {
	p := plan{fault: fault, of: of, step: s}
	h := fnv.New64a()
	_, _ = h.Write([]byte(p.name()))
	p.seed = seed ^ h.Sum64()
	random := rand.New(rand.NewPCG(p.seed, 2))
	p.hold = time.Duration(random.IntN(800)) * time.Millisecond
	p.lasting = 4*time.Second + time.Duration(random.IntN(8000))*time.Millisecond
	p.rounds = 2 + random.Int32N(3)
	return p
}

func has(steps []step, s step) bool {
	for _, other := range steps {
		if other.name == s.name {
			return true
		}
	}
	return false
}

// load is what the workload does, chosen by the seed.
type load struct{ sizeMiB, pages, intervalMS int }

func newLoad(seed uint64) load {
	random := rand.New(rand.NewPCG(seed, 3))
	return load{sizeMiB: 4 + random.IntN(13), pages: 1 + random.IntN(8), intervalMS: 100 + random.IntN(101)}
}
