// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"strings"
)

// Names of what is rendered.
const (
	pageFile     = "benchmarks.md"
	chartFile    = "images/bench-downtime.svg"
	timelineFile = "images/bench-timeline.svg"
)

const head = `# Benchmarks

How long a process stands still when it is moved to another node: by Godwit, by a
stop-and-copy, by bare CRIU, and by others. The page is made from the results of
` + "`make bench`" + ` (` + "`bin/bench render artifacts/bench.json`" + `); every single measurement is in that
file.

`

const howToRead = `## How to read this

The nodes are virtual machines whose processors are emulated in software, several
times slower than hardware, and the volume is on the same machine. **Absolute times
mean little; ratios within one run do.** All methods were measured on the same two
nodes, one after the other in every repetition and in changing order. A ratio is
always of two measurements of the same repetition; what is shown is the median of
these ratios, then the quartiles and the extremes.

- **Downtime** is the longest time in which the process did not run, as it saw
  itself, by the wall clock, which both nodes share. (Its monotonic clock tells
  less: CRIU lets that stand still between dump and restore.) Where the process is
  another one afterwards, it is the longest time without an answer for a client,
  and compared with the same of ours.
- **Client** is that for a client that asks through the Service ten times a second.
  A new endpoint has to be ready and known to kube-proxy first, which is no part of
  a process's downtime.
- **Floor** is what CRIU itself needs and nothing else: the time that its last dump
  held the process, and its restore, by its own figures. **Overhead** is our
  downtime over that.
- **Container floor** is the same for the program in a container of runc's: CRIU makes
  namespaces, mounts and cgroups as well then.
- **Dump** is how long the process stood still until its last dump was complete, and
  **restore** how long it took to put it back.
- The memory is memhog's, pages of random numbers; a percentage of it is written
  anew each second, anywhere (uniform) or in a fixed 5 % of it (hot).
- A cell converges when the last dump holds at most a quarter of the memory.

`

// pages makes the page and its pictures, by name.
func pages(rs results) map[string]string {
	var b strings.Builder
	b.WriteString(head)
	b.WriteString(coverage(rs))
	b.WriteString("## What has to hold\n\n")
	t := newTable("", "measured", "")
	for _, c := range verdict(rs) {
		t.row(c.text, c.measured, string(c.outcome))
	}
	b.WriteString(t.String())
	b.WriteString(howToRead)
	all := map[string]string{}
	if len(rs.cells()) > 0 {
		b.WriteString("## Downtime\n\n![Downtime by method](" + chartFile + ")\n\n")
		all[chartFile] = downtimeChart(rs)
		b.WriteString(downtimeTables(rs))
		b.WriteString(ratioTable(rs))
		b.WriteString(overheadTable(rs))
		b.WriteString(roundsTable(rs))
	}
	if r := typical(rs); r != nil {
		b.WriteString("## One switchover\n\nThe migration whose downtime is nearest to the median of its cell, by the agents' timestamps, and below it bare CRIU in the same repetition.\n\n")
		b.WriteString("![The parts of one switchover](" + timelineFile + ")\n\n")
		all[timelineFile] = timeline(rs, r)
	}
	b.WriteString(costSection(rs))
	b.WriteString(methodsTable())
	b.WriteString(missing)
	b.WriteString(failures(rs))
	all[pageFile] = strings.TrimRight(b.String(), "\n") + "\n"
	return all
}

// coverage says what the page rests on.
func coverage(rs results) string {
	if len(rs) == 0 {
		return "Nothing was measured.\n\n"
	}
	var runs []string
	counted, failed, kept := 0, 0, 0
	for i := range rs {
		r := &rs[i]
		if !slices.Contains(runs, r.Run) {
			runs = append(runs, r.Run)
		}
		switch {
		case r.ok():
			counted++
			if r.Memory == memoryKept {
				kept++
			}
		case r.Error != "":
			failed++
		}
	}
	slices.Sort(runs)
	what := "one run"
	if len(runs) > 1 {
		what = fmt.Sprintf("%d runs", len(runs))
	}
	return fmt.Sprintf("%d measurements in %d cells, of %s (%s); %d failed. After %d of them it was the same process, and\n"+
		"every page of its memory, of Redis every key, was looked at and right.\n\n", counted, len(rs.cells()), what, strings.Join(runs, ", "), failed, kept)
}

// downtimeTables has a table for each cell with all that was measured there.
func downtimeTables(rs results) string {
	var b strings.Builder
	b.WriteString("Seconds: the median, then quartiles and extremes.\n\n")
	for _, c := range rs.cells() {
		t := newTable(c.title(), "n", "downtime", "client", "dump", "restore", "from order to end")
		for _, m := range methods {
			s := spreadOf(rs.values(c, m.name, downtime))
			if s.N == 0 {
				continue
			}
			t.row("`"+m.name+"`", fmt.Sprint(s.N), full(s), brief(rs.values(c, m.name, clientGap)), brief(rs.values(c, m.name, frozenForDump)),
				brief(rs.values(c, m.name, restoreTime)), brief(rs.values(c, m.name, totalTime)))
		}
		b.WriteString(t.String())
	}
	return b.String()
}

// ratioTable compares precopy with everything else in each cell.
func ratioTable(rs results) string {
	var b strings.Builder
	b.WriteString("## Ratios\n\nDowntime of `precopy` over that of the others, and its last dump's over stop-and-copy's.\n\n")
	t := newTable("", "over the floor", "over the container floor", "over stop-and-copy", "dump over stop-and-copy's", "over `runc-script`", "over `phaul`", "over `podman`", "over `reschedule`, for the client")
	for _, c := range rs.cells() {
		of := func(m metric, other string, n metric) string { return fullOf(rs.ratios(c, precopy, m, other, n)) }
		t.row(c.title(), of(processGap, floor, floorTime), of(processGap, containerFloor, floorTime), of(processGap, stopAndCopy, processGap), of(frozenForDump, stopAndCopy, frozenForDump),
			of(processGap, runcScript, processGap), of(processGap, phaulMethod, processGap),
			of(processGap, podmanMethod, processGap), of(clientGap, reschedule, clientGap))
	}
	b.WriteString(t.String())
	return b.String()
}

// overheadTable says what there is besides the floor. Its parts are medians, and so
// need not add up.
func overheadTable(rs results) string {
	var b strings.Builder
	b.WriteString("## What the overhead is\n\nSeconds that a switchover took more than bare CRIU in the same repetition, and the hand-over, of which that has none. Medians.\n\n")
	t := newTable("", "dump: freeze, files, digest, runc", "hand-over: publish, verify, commit", "restore: wrapper, runc, namespaces", "in all")
	for _, c := range rs.cells() {
		var dump, handover, restore, all []float64
		for _, r := range rs.of(c, precopy) {
			f := floorOf(rs, r)
			if f == nil || r.Reported == nil {
				continue
			}
			dump = append(dump, r.Reported.FreezeAndDumpSeconds-f.CRIU.FreezingSeconds-f.CRIU.FrozenSeconds)
			handover = append(handover, r.Reported.HandoverSeconds)
			restore = append(restore, r.Reported.RestoreSeconds-f.CRIU.RestoreSeconds)
			all = append(all, r.Reported.TotalSeconds-f.CRIU.floor())
		}
		if len(all) > 0 {
			t.row(c.title(), brief(dump), brief(handover), brief(restore), brief(all))
		}
	}
	if t.empty() {
		return ""
	}
	b.WriteString(t.String())
	return b.String()
}

// roundsTable shows pre-copy itself.
func roundsTable(rs results) string {
	t := newTable("", "rounds", "written, of what is resident", "last dump", "frozen for a round", "predicted", "reported", "by the process", "error of the prediction", "why it switched")
	for _, c := range rs.cells() {
		some := rs.of(c, precopy)
		if len(some) == 0 {
			continue
		}
		var rounds, written, last, frozen, predicted, off []float64
		var why []string
		for _, r := range some {
			rounds = append(rounds, float64(len(r.Rounds)))
			if r.ResidentBytes > 0 {
				written = append(written, float64(r.BytesWritten)/float64(r.ResidentBytes))
			}
			if r.Final != nil {
				last = append(last, float64(r.Final.MemoryBytes)/(1<<20))
			}
			for _, d := range r.Rounds {
				frozen = append(frozen, d.FrozenSeconds)
			}
			if e, ok := predictionError(r); ok {
				off, predicted = append(off, 100*e), append(predicted, r.Reported.PredictedSeconds)
			}
			if r.Decision != "" && !slices.Contains(why, r.Decision) {
				why = append(why, r.Decision)
			}
		}
		slices.Sort(why)
		t.row(c.title(), plain("%.0f", rounds), plain("%.2f", written), plain("%.1f MiB", last), plain("%.2f s", frozen), plain("%.2f s", predicted),
			plain("%.2f s", rs.values(c, precopy, reportedDowntime)), plain("%.2f s", rs.values(c, precopy, processGap)), plain("%.0f %%", off), strings.Join(why, ", "))
	}
	if t.empty() {
		return ""
	}
	return "## Pre-copy\n\nMedians of `precopy`. The process stands still for a moment in each round, too.\n\n" + t.String()
}

func methodsTable() string {
	t := newTable("method", "what is done", "what it cannot do")
	for _, m := range methods {
		t.row("`"+m.name+"`", m.says, m.cannot)
	}
	return "## The methods\n\n" + t.String() + `In the presets' grid ` + "`precopy` and `floor`" + ` are measured in the cells that differ from
the middle (256 MiB, 1 %/s, uniform) in one thing; stop-and-copy, whose downtime does not
depend on how fast memory is written, in one cell of each size; rescheduling, of which the
same is true, and the floor of containers, in those up to the middle; and what else is
driven by hand, and the cost, in the middle only. All of it in all cells, ` + "`GRID=full`" + `, takes hours.

`
}

const missing = `## What is not here

- Hardware. Nothing here says how many milliseconds a migration takes there.

`

// failures lists what failed.
func failures(rs results) string {
	var b strings.Builder
	for i := range rs {
		if r := &rs[i]; r.Error != "" {
			fmt.Fprintf(&b, "- %s, `%s`, repetition %d: %s\n", r.title(), r.Method, r.Rep, strings.Join(strings.Fields(r.Error), " "))
		}
	}
	if b.Len() == 0 {
		return ""
	}
	return "## What failed\n\n" + b.String()
}
