// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"math"
	"slices"
)

// spread is what some measurements of the same thing are like.
type spread struct {
	N                        int
	Median, Q1, Q3, Min, Max float64
}

// spreadOf is the spread of the values; of none it has N 0.
func spreadOf(values []float64) spread {
	if len(values) == 0 {
		return spread{}
	}
	v := slices.Clone(values)
	slices.Sort(v)
	return spread{
		N: len(v), Median: quantile(v, 0.5), Q1: quantile(v, 0.25), Q3: quantile(v, 0.75), Min: v[0], Max: v[len(v)-1],
	}
}

// quantile of sorted values, interpolated between the two next to it.
func quantile(sorted []float64, q float64) float64 {
	at := q * float64(len(sorted)-1)
	below := int(at)
	if below+1 >= len(sorted) {
		return sorted[len(sorted)-1]
	}
	return sorted[below] + (at-float64(below))*(sorted[below+1]-sorted[below])
}

// metric is a number of a result, 0 when it was not measured.
type metric func(*result) float64

func processGap(r *result) float64 { return r.ProcessGapSeconds }
func clientGap(r *result) float64  { return r.ClientGapSeconds }
func totalTime(r *result) float64  { return r.TotalSeconds }

// frozenForDump is how long the process stood still for the last dump.
func frozenForDump(r *result) float64 {
	if r.Final == nil {
		return 0
	}
	return r.Final.FrozenSeconds
}

func restoreTime(r *result) float64 {
	switch {
	case r.Reported != nil:
		return r.Reported.RestoreSeconds
	case r.CRIU != nil:
		return r.CRIU.RestoreSeconds
	}
	return 0
}

func reportedDowntime(r *result) float64 {
	if r.Reported == nil {
		return 0
	}
	return r.Reported.TotalSeconds
}

// floorTime is the downtime that CRIU by itself cannot avoid.
func floorTime(r *result) float64 {
	if r.CRIU == nil {
		return 0
	}
	return r.CRIU.floor()
}

// downtime is the number that a method is judged by.
func downtime(r *result) float64 {
	switch m, _ := info(r.Method); {
	case m.criuOnly:
		return floorTime(r)
	case m.seen == byClient:
		return clientGap(r)
	}
	return processGap(r)
}

// predictionError is how far the prediction right before the freeze was from what
// then was measured, in parts of the latter. ok is false when there is none.
func predictionError(r *result) (e float64, ok bool) {
	if r.Reported == nil || r.Reported.PredictedSeconds <= 0 || r.Reported.TotalSeconds <= 0 {
		return 0, false
	}
	return math.Abs(r.Reported.PredictedSeconds-r.Reported.TotalSeconds) / r.Reported.TotalSeconds, true
}

// results of a run or more.
type results []result

// cells that were measured, small ones first.
func (rs results) cells() []cell {
	var all []cell
	for i := range rs {
		if rs[i].Rep > 0 && !slices.Contains(all, rs[i].cell) {
			all = append(all, rs[i].cell)
		}
	}
	slices.SortFunc(all, compareCells)
	return all
}

// of a method in a cell that count.
func (rs results) of(c cell, method string) []*result {
	var some []*result
	for i := range rs {
		if r := &rs[i]; r.cell == c && r.Method == method && r.ok() {
			some = append(some, r)
		}
	}
	return some
}

// values of a metric of a method in a cell.
func (rs results) values(c cell, method string, m metric) []float64 {
	var all []float64
	for _, r := range rs.of(c, method) {
		if v := m(r); v > 0 {
			all = append(all, v)
		}
	}
	return all
}

// ratios of one method's metric to another's in a cell. Each is of two measurements
// of the same repetition of the same run, which were made one soon after the other:
// what the machine did to one it did to the other.
func (rs results) ratios(c cell, method string, m metric, other string, n metric) []float64 {
	var all []float64
	for _, r := range rs.of(c, method) {
		for _, o := range rs.of(c, other) {
			if o.Run != r.Run || o.Rep != r.Rep {
				continue
			}
			if a, b := m(r), n(o); a > 0 && b > 0 {
				all = append(all, a/b)
			}
		}
	}
	return all
}

// converges says whether pre-copy got anywhere in a cell: in half of the repetitions
// and more, the last dump held at most a quarter of the memory.
func (rs results) converges(c cell) bool {
	shares := spreadOf(rs.values(c, precopy, func(r *result) float64 {
		if r.Final == nil {
			return 0
		}
		return float64(max(r.Final.MemoryBytes, 1)) / float64(c.SizeMiB<<20)
	}))
	return shares.N > 0 && shares.Median <= 0.25
}
