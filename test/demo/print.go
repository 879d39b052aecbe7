// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"godwit.dev/godwit/internal/migration"
)

// print writes the report for people.
func (r *Report) print(w io.Writer) {
	fmt.Fprintf(w, "Report\n══════\n")
	fmt.Fprintf(w, "%s of data in %d keys, every byte of which was checked before the move.\n", migration.FormatBytes(r.DataBytes), r.Before.Keys)
	for i := range r.Moves {
		r.Moves[i].print(w, r)
	}
	if r.Comparison != nil {
		r.Comparison.print(w, r.Moves[0], r.Moves[1])
	}
	fmt.Fprintln(w)
	if r.OK {
		fmt.Fprintf(w, "0 lost keys: every acknowledged write is there. The demonstration took %.0f s.\n", r.Seconds)
		return
	}
	fmt.Fprintln(w, "FAILED")
	for _, p := range r.Problems {
		fmt.Fprintf(w, "  - %s\n", p)
	}
}

func (m *Move) print(w io.Writer, r *Report) {
	fmt.Fprintf(w, "\n%s: %s → %s, %s through the volume\n\n", m.Title, m.From, m.To, migration.FormatBytes(m.Bytes))
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "\tmemory\ttook\tstood still\tdirty left\t")
	for i, d := range m.Rounds {
		d.row(t, fmt.Sprintf("round %d", i), migration.FormatBytes(d.Dirty))
	}
	if m.Final != nil {
		m.Final.row(t, "final dump", "-")
	}
	_ = t.Flush()
	fmt.Fprintf(w, "\n  downtime, measured on the nodes    %s = %s freeze and dump + %s hand-over + %s restore\n",
		seconds(m.Downtime.Total), seconds(m.Downtime.FreezeAndDump), seconds(m.Downtime.Handover), seconds(m.Downtime.Restore))
	fmt.Fprintf(w, "  downtime, as the client saw it     %s, the longest time without a successful operation\n", seconds(m.Client.LongestGap))
	fmt.Fprintf(w, "  client                             %d acknowledged writes, %d reads, %d attempts repeated, %d wrong reads\n",
		m.Client.Writes, m.Client.Reads, m.Client.Errors, len(m.Client.Wrong))
	fmt.Fprintf(w, "  keys checked                       %d before, %d after; %d lost, %d surplus\n", r.Before.Keys, m.After.Keys, m.After.Lost, m.After.Surplus)
	for _, l := range m.After.Losses {
		fmt.Fprintf(w, "                                     %s\n", l)
	}
	fmt.Fprintf(w, "  pod restarts                       %d\n", m.Restarts)
	same := "unchanged"
	if !m.SameProcess {
		same = "CHANGED"
	}
	fmt.Fprintf(w, "  process                            %s: started %s, run id %.8s…, by its own account\n",
		same, m.Process.Started.UTC().Format(time.DateTime), m.Process.RunID)
}

func (d *Dump) row(w io.Writer, name, dirty string) {
	fmt.Fprintf(w, "  %s\t%s\t%s\t%s\t%s\t\n", name, migration.FormatBytes(d.Memory), seconds(d.Duration), seconds(d.Frozen), dirty)
}

func (c *Comparison) print(w io.Writer, live, stop Move) {
	fmt.Fprintf(w, "\nLive migration and stop-and-copy of the same pod\n\n")
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "\tlive\tstop-and-copy\t")
	for _, row := range []struct {
		name string
		of   func(Move) time.Duration
	}{
		{"frozen time of the dump", func(m Move) time.Duration {
			if m.Final == nil {
				return 0
			}
			return m.Final.Frozen
		}},
		{"whole downtime", func(m Move) time.Duration { return m.Downtime.Total }},
		{"as the client saw it", gapOf},
	} {
		fmt.Fprintf(t, "  %s\t%s\t%s\t\n", row.name, seconds(row.of(live)), seconds(row.of(stop)))
	}
	_ = t.Flush()
	fmt.Fprintln(w)
	for _, r := range c.Rows {
		verdict := "as it has to be"
		if !r.OK() {
			verdict = "NOT as it has to be"
		}
		fmt.Fprintf(w, "  %-44s  %.2f of %.2f %s: %.2f, below %g %s\n", r.What, r.Got, r.Of, r.Unit, r.Ratio(), r.Limit, verdict)
	}
}
