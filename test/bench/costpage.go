// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"
)

const costHead = `## What a migration costs

A Redis of a cell's size is migrated while redis-benchmark sets random keys of it,
four hundred in each run, one after the other, on the node that it moves from. Each of the
two requests half a CPU. Medians over the repetitions.

- A run counts **before** the first round; **in a round** if a tenth of it or more is
  in rounds; **between** the rounds if less is, up to the freeze; and **after** the
  restore. **Pre-copy** is both of the middle ones. Runs that the switchover is in count
  for nothing. Afterwards Redis is on another node than redis-benchmark, so that this
  number is no measure of a loss.
- **Processor** and **memory** are those of the cgroups, until the Migration has
  finished. Memory is without the page cache, read once a second. The restore is
  containerd's and runc's, and is not among them.
- **Writes** are the API server's count of requests that write, from all clients, until
  the source's pod is gone and the target's is ready. Leases are left out; the rest of
  the cluster's, such as the nodes' heartbeats, is in it.

`

// costOf lists the costs that were measured in a cell.
func costOf(rs results, c cell) []*result {
	var all []*result
	for _, r := range rs.of(c, costMethod) {
		if r.Cost != nil {
			all = append(all, r)
		}
	}
	return all
}

// costSection has a row or a table for each cell in which costs were measured.
func costSection(rs results) string {
	slow := newTable("requests to Redis", "before, a second", "in a round, of that", "between rounds, of that", "in pre-copy, of that", "after, of that", "rounds", "frozen for a round", "written, of what is resident")
	writes := newTable(append([]string{"writes to the API"}, append(writeKinds, "in all")...)...)
	var used strings.Builder
	for _, c := range rs.cells() {
		some := costOf(rs, c)
		if len(some) == 0 {
			continue
		}
		slow.row(slowRow(c, some)...)
		writes.row(writesRow(c, some)...)
		used.WriteString(usedTable(c, some))
	}
	if slow.empty() {
		return ""
	}
	return costHead + slow.String() + used.String() + writes.String()
}

func slowRow(c cell, some []*result) []string {
	var before, inRounds, between, preCopy, after, rounds, frozen, written []float64
	for _, r := range some {
		k := r.Cost
		before = append(before, k.Before.PerSecond)
		inRounds = append(inRounds, k.Before.ratio(k.InRound)...)
		between = append(between, k.Before.ratio(k.Between)...)
		preCopy = append(preCopy, k.Before.ratio(k.PreCopy)...)
		after = append(after, k.Before.ratio(k.After)...)
		rounds = append(rounds, float64(len(r.Rounds)))
		for _, d := range r.Rounds {
			frozen = append(frozen, d.FrozenSeconds)
		}
		if r.ResidentBytes > 0 {
			written = append(written, float64(r.BytesWritten)/float64(r.ResidentBytes))
		}
	}
	return []string{fmt.Sprintf("%d MiB", c.SizeMiB), plain("%.0f", before), brief(inRounds), brief(between), brief(preCopy), brief(after),
		plain("%.0f", rounds), plain("%.2f s", frozen), brief(written)}
}

// ratio of another throughput to this one, none when one of them was not measured.
func (t throughput) ratio(o throughput) []float64 {
	if t.PerSecond <= 0 || o.PerSecond <= 0 {
		return nil
	}
	return []float64{o.PerSecond / t.PerSecond}
}

func usedTable(c cell, some []*result) string {
	t := newTable(fmt.Sprintf("%d MiB", c.SizeMiB), "processor", "processor when idle", "memory at most", "memory when idle")
	for _, meter := range meterNames {
		var cpu, idle, peak, rest []float64
		for _, r := range some {
			if u, ok := r.Cost.Used[meter.name]; ok {
				cpu, idle = append(cpu, u.CPUSeconds), append(idle, 100*u.IdleCPU)
				peak, rest = append(peak, float64(u.PeakBytes)/(1<<20)), append(rest, float64(u.IdleBytes)/(1<<20))
			}
		}
		t.row(meter.title, plain("%.2f s", cpu), plain("%.1f %%", idle), plain("%.0f MiB", peak), plain("%.0f MiB", rest))
	}
	return t.String()
}

func writesRow(c cell, some []*result) []string {
	row := []string{fmt.Sprintf("%d MiB", c.SizeMiB)}
	counts := map[string][]float64{}
	var all []float64
	for _, r := range some {
		sum := 0
		byKind := r.Cost.writesByKind()
		for _, kind := range writeKinds {
			counts[kind] = append(counts[kind], float64(byKind[kind]))
			sum += byKind[kind]
		}
		all = append(all, float64(sum))
	}
	for _, kind := range writeKinds {
		row = append(row, plain("%.0f", counts[kind]))
	}
	return append(row, plain("%.0f", all))
}

// undisturbed: Redis between the rounds.
func undisturbed(rs results) claim {
	var ratios []float64
	for _, c := range rs.cells() {
		for _, r := range costOf(rs, c) {
			ratios = append(ratios, r.Cost.Before.ratio(r.Cost.Between)...)
		}
	}
	c := claim{fmt.Sprintf("throughput of Redis between rounds, of that before, at least %g", minThroughput), nothing, notMeasured}
	s := spreadOf(ratios)
	if s.N == 0 {
		return c
	}
	c.measured, c.outcome = fmt.Sprintf("%s of %d", full(s), s.N), fails
	if s.Median >= minThroughput {
		c.outcome = holds
	}
	return c
}

// roundsShown: the status says how long each round stopped the pod.
func roundsShown(rs results) claim {
	all, shown := 0, 0
	for i := range rs {
		r := &rs[i]
		if !r.ok() || r.Method != precopy && r.Method != costMethod {
			continue
		}
		for _, d := range r.Rounds {
			all++
			if d.FrozenSeconds > 0 {
				shown++
			}
		}
	}
	c := claim{"the status shows for how long each round froze the pod", nothing, notMeasured}
	if all == 0 {
		return c
	}
	c.measured, c.outcome = fmt.Sprintf("of %d rounds out of %d", shown, all), fails
	if shown == all {
		c.outcome = holds
	}
	return c
}
