// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
)

const reliabilityHead = `# Reliability

What happens to a pod when something breaks in the middle of its migration. The
page is made from the results of ` + "`make chaos`" + ` (` + "`bin/chaos render artifacts/chaos.json`" + `);
[protocol.md](protocol.md) says why it comes out like this.

A process keeps a sequence of numbers in memory and writes each of them once to
a log outside the cluster, with the UID of the pod it is in. It is migrated again
and again between two nodes, and each time one thing is broken at one step. The
step is a named point at which the program is held, so the fault hits exactly
there. A run passes when, in the log and by looks at both nodes,

- at no time two copies ran,
- no number was lost or repeated, and the program was never started afresh,
- the migration ended, and exactly one pod has the process,
- no image, frozen or throttled cgroup, network drop, work directory, mount,
  parked create, CRIU or copy of the process was left on either node.

When the fault ends the only copy that runs, nothing can save what was in its
memory. Those runs are named, and pass when the pod starts afresh once, or goes
on from what was frozen before, and all else is as above. The latter only a
person can decide; the test does it where the Migration says so.

Silent is the longest time without a number in the log, faults that stop
everything included. Recovered is the time from the end of the fault until the
migration was over and the log heard from the pod. Nodes are emulated in
software: times are several times longer than on hardware.

`

const reliabilityOwners = `
## Pods of workload controllers

The same with the pod of a Deployment, which makes the pod that it goes on in, and with
that of a StatefulSet, which makes it again under its name when the source is gone. What
is tried is how the one takes the other's place. In the end exactly one pod is left, too;
it is its controller's, and says nothing of a release any more. Not among them is a
webhook that goes away when it is asked about a Deployment's pod: an ordinary one is made
beside the source then, and removed again ([protocol.md](protocol.md#pods-of-workload-controllers)).

`

// render writes the page.
func render(w io.Writer, results []result) error {
	var b strings.Builder
	b.WriteString(reliabilityHead)
	var passed, lost int
	for _, r := range results {
		if r.Passed {
			passed++
		}
		if r.Excepted != "" {
			lost++
		}
	}
	fmt.Fprintf(&b, "%d runs of the table's %d: %d passed, %d failed. In %d of them the only running copy was lost.\n\n",
		len(results), len(plans(table, false, nil, 1)), passed, len(results)-passed, lost)
	sorted := inOrder(results)
	first := slices.IndexFunc(sorted, func(r result) bool { return r.Workload != "" })
	if first < 0 {
		first = len(sorted)
	}
	writeRuns(&b, sorted[:first])
	if first < len(sorted) {
		b.WriteString(reliabilityOwners)
		writeRuns(&b, sorted[first:])
	}
	b.WriteString("\n## Faults\n\n| Fault | What is done |\n|---|---|\n")
	explained := map[string]bool{}
	for _, row := range table {
		if !explained[row.fault] {
			fmt.Fprintf(&b, "| %s | %s |\n", row.fault, faults[row.fault].says)
		}
		explained[row.fault] = true
	}
	b.WriteString("\n## What failed\n\n")
	none := true
	for _, r := range sorted {
		if r.Passed {
			continue
		}
		none = false
		fmt.Fprintf(&b, "`%s` (seed %d):\n\n", r.Run, r.Seed)
		for _, p := range r.Problems {
			fmt.Fprintf(&b, "- %s\n", strings.ReplaceAll(strings.TrimSpace(p), "\n", "; "))
		}
		b.WriteString("\n")
	}
	if none {
		b.WriteString("Nothing.\n")
	}
	_, err := io.WriteString(w, strings.TrimRight(b.String(), "\n")+"\n")
	return err
}

// inOrder sorts results as the table has them.
func inOrder(results []result) []result {
	order := map[string]int{}
	for i, row := range table {
		for j, s := range row.steps {
			order[newPlan(row.fault, row.of, s, 0).name()] = i*1000 + j
		}
	}
	sorted := slices.Clone(results)
	slices.SortStableFunc(sorted, func(a, b result) int { return cmp.Compare(order[a.Run], order[b.Run]) })
	return sorted
}

// writeRuns writes a table of results, of pods of workload controllers with what these
// are.
func writeRuns(b *strings.Builder, results []result) {
	owned := len(results) > 0 && results[0].Workload != ""
	of, rule := "", ""
	if owned {
		of, rule = "| Pod of ", "|---"
	}
	fmt.Fprintf(b, "%s| Fault | Step | Outcome | Copies | Lost | Repeated | Silent | Recovered | Left over | |\n%s|---|---|---|---|---|---|---|---|---|---|\n", of, rule)
	var last result
	for _, r := range results {
		fault, workload := r.Fault, r.Workload
		if r.Workload == last.Workload {
			workload = ""
			if r.Fault == last.Fault {
				fault = ""
			}
		}
		last = r
		verdict := "passed"
		if !r.Passed {
			verdict = "**failed**"
		} else if r.Excepted != "" {
			verdict += "; " + r.Excepted
		}
		if owned {
			fmt.Fprintf(b, "| %s ", workload)
		}
		fmt.Fprintf(b, "| %s | %s | %s | %d | %d | %d | %.1f s | %.1f s | %d | %s |\n", fault, r.Step, r.Outcome,
			r.CopiesRunning, r.NumbersLost, r.NumbersRepeated, float64(r.FrozenMS)/1000, float64(r.RecoverMS)/1000, len(r.Leftovers), verdict)
	}
}
