// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"
)

// What has to hold; see the page's section of that name.
const (
	maxFrozenOfStop   = 0.15
	maxDowntimeOfStop = 0.6
	maxOverhead       = 1.25
	maxPredictionErr  = 0.2
	minThroughput     = 0.9
	// enough repetitions for a median to mean something.
	enough = 5
)

// outcome of a claim.
type outcome string

const (
	holds       outcome = "holds"
	fails       outcome = "**does not hold**"
	notMeasured outcome = "not measured"
)

// claim is one thing that has to hold, with what was measured.
type claim struct {
	text, measured string
	outcome        outcome
}

// verdict on all claims.
func verdict(rs results) []claim {
	claims := []claim{
		againstStop(rs, "frozen time of the last dump, of stop-and-copy's", frozenForDump, maxFrozenOfStop),
		againstStop(rs, "whole downtime, of stop-and-copy's", processGap, maxDowntimeOfStop),
		overFloor(rs, floor, "of bare CRIU"),
		overFloor(rs, containerFloor, "of CRIU with a container"),
		prediction(rs),
		undisturbed(rs),
		roundsShown(rs),
	}
	for _, m := range methods {
		if m.peer {
			claims = append(claims, shorterThan(rs, m))
		}
	}
	return claims
}

// worst collects the highest of some medians.
type worst struct {
	median float64
	at     string
	cells  int
	// fewest values behind a median.
	fewest int
}

func (w *worst) add(values []float64, at string) {
	s := spreadOf(values)
	if s.N == 0 {
		return
	}
	if w.cells == 0 || s.N < w.fewest {
		w.fewest = s.N
	}
	if w.cells++; w.cells == 1 || s.Median > w.median {
		w.median, w.at = s.Median, at
	}
}

// is says whether all of the medians are below a limit, or equal to it if that may be.
func (w *worst) is(ok func(float64) bool) outcome {
	switch {
	case w.cells == 0:
		return notMeasured
	case ok(w.median):
		return holds
	}
	return fails
}

func (w *worst) String() string {
	if w.cells == 0 {
		return "–"
	}
	text := fmt.Sprintf("%.2f", w.median)
	if w.cells > 1 {
		text += fmt.Sprintf(" in the worst of %d cells", w.cells)
	}
	if w.at != "" {
		text += " (" + w.at + ")"
	}
	if w.fewest < enough {
		text += fmt.Sprintf(", from %d repetitions only", w.fewest)
	}
	return text
}

func atMost(limit float64) func(float64) bool { return func(v float64) bool { return v <= limit } }

// againstStop compares with stop-and-copy at 1024 MiB, 1 %/s.
func againstStop(rs results, what string, m metric, limit float64) claim {
	var w worst
	for _, c := range rs.cells() {
		if c.SizeMiB == 1024 && c.RatePercent == 1 {
			w.add(rs.ratios(c, precopy, m, stopAndCopy, m), c.title())
		}
	}
	return claim{fmt.Sprintf("1024 MiB, 1 %%/s: %s, at most %g", what, limit), w.String(), w.is(atMost(limit))}
}

// overFloor: the overhead over what CRIU itself takes, in every cell.
func overFloor(rs results, which, whose string) claim {
	var w worst
	for _, c := range rs.cells() {
		w.add(rs.ratios(c, precopy, processGap, which, floorTime), c.title())
	}
	return claim{fmt.Sprintf("overhead: downtime over the floor %s, at most %g in every cell", whose, maxOverhead), w.String(), w.is(atMost(maxOverhead))}
}

// prediction: its median error over all migrations.
func prediction(rs results) claim {
	var errors []float64
	for i := range rs {
		if r := &rs[i]; r.Method == precopy && r.ok() {
			if e, ok := predictionError(r); ok {
				errors = append(errors, e)
			}
		}
	}
	var w worst
	w.add(errors, "")
	c := claim{fmt.Sprintf("error of the predicted downtime, median at most %.0f %%", 100*maxPredictionErr), "–", w.is(atMost(maxPredictionErr))}
	if s := spreadOf(errors); s.N > 0 {
		c.measured = fmt.Sprintf("%.0f %% (quartiles %.0f–%.0f %%, worst %.0f %%) of %d", 100*s.Median, 100*s.Q1, 100*s.Q3, 100*s.Max, s.N)
	}
	return c
}

// shorterThan compares with a peer, in every cell that converges.
func shorterThan(rs results, m methodInfo) claim {
	var w, alone worst
	var left []string
	for _, c := range rs.cells() {
		values := rs.ratios(c, precopy, seenAs(m), m.name, downtime)
		switch {
		case rs.converges(c):
			w.add(values, c.title())
			if m.bare {
				alone.add(rs.ratios(c, containerFloor, floorTime, m.name, downtime), c.title())
			}
		case len(values) > 0:
			left = append(left, c.title())
		}
	}
	text := w.String()
	if alone.cells > 0 {
		text += fmt.Sprintf("; it moves a bare process, and of CRIU with a container the floor alone is %s", &alone)
	}
	if len(left) > 0 {
		text += "; without what does not converge: " + strings.Join(left, ", ")
	}
	return claim{fmt.Sprintf("downtime over that of `%s`, below 1 in every cell that converges", m.name), text, w.is(func(v float64) bool { return v < 1 })}
}

// seenAs is our downtime as it is seen with that method.
func seenAs(m methodInfo) metric {
	if m.seen == byClient {
		return clientGap
	}
	return processGap
}
