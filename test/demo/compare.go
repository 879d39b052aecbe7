// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import "fmt"

// Comparison holds what a live migration must be better at than a
// stop-and-copy of the same pod.
type Comparison struct {
	Rows []Row `json:"rows"`
}

// Row compares two numbers.
type Row struct {
	What string `json:"what"`
	// Got has to be less than Limit times Of.
	Got   float64 `json:"got"`
	Of    float64 `json:"of"`
	Limit float64 `json:"limit"`
	// Unit of both: "MiB" or "s".
	Unit string `json:"unit"`
}

// Ratio of both numbers.
func (r Row) Ratio() float64 { return r.Got / r.Of }

// OK says that the ratio is below the limit. Nothing measured is not OK.
func (r Row) OK() bool { return r.Got > 0 && r.Of > 0 && r.Ratio() < r.Limit }

func newComparison(live, stop Move) *Comparison {
	var first, final int64
	if r := live.Migration.Rounds; len(r) > 0 {
		first = r[0].MemoryBytes
	}
	if f := live.Migration.Final; f != nil {
		final = f.MemoryBytes
	}
	return &Comparison{Rows: []Row{
		{"memory in the final dump, of round 0's", mib(final), mib(first), 0.1, "MiB"},
		{"frozen time of the dump, of stop-and-copy's", live.frozen().Seconds(), stop.frozen().Seconds(), 0.5, "s"},
		{"whole downtime, of stop-and-copy's", live.downtime().Seconds(), stop.downtime().Seconds(), 0.8, "s"},
	}}
}

// Problems are the rows that did not come out as they have to.
func (c *Comparison) Problems() []string {
	var problems []string
	for _, r := range c.Rows {
		if !r.OK() {
			problems = append(problems, fmt.Sprintf("%s: %.2f of %.2f %s is not below %g", r.What, r.Got, r.Of, r.Unit, r.Limit))
		}
	}
	return problems
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }
