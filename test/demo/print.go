// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"godwit.dev/godwit/internal/progress"
)

// print writes the report for people.
func (r *Report) print(w io.Writer) error {
	fmt.Fprintf(w, "\nREPORT: %s of data in %d keys; every byte was checked before the move\n", progress.Bytes(r.DataBytes), r.Before.Keys)
	for i := range r.Moves {
		if err := r.Moves[i].print(w, r); err != nil {
			return err
		}
	}
	if r.Comparison != nil {
		if err := r.Comparison.print(w, r.Moves[0], r.Moves[1]); err != nil {
			return err
		}
	}
	if r.OK {
		fmt.Fprintf(w, "\n0 lost keys: every acknowledged write is there. The demonstration took %.0f s.\n", r.Seconds)
		return nil
	}
	fmt.Fprintln(w, "\nFAILED")
	for _, p := range r.Problems {
		fmt.Fprintf(w, "  - %s\n", p)
	}
	return nil
}

func (m *Move) print(w io.Writer, r *Report) error {
	fmt.Fprintf(w, "\n%s\n%s\n", m.Title, strings.Repeat("─", len([]rune(m.Title))))
	if err := m.Migration.WriteTable(w); err != nil {
		return err
	}
	same := "unchanged"
	if !m.SameProcess {
		same = "CHANGED"
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "As the client saw it:\t%s, the longest time without a successful operation\n", progress.Duration(m.Client.LongestGap))
	fmt.Fprintf(t, "Client:\t%d acknowledged writes, %d reads, %d attempts repeated, %d wrong reads\n", m.Client.Writes, m.Client.Reads, m.Client.Errors, len(m.Client.Wrong))
	fmt.Fprintf(t, "Keys checked:\t%d before, %d after; %d lost, %d surplus\n", r.Before.Keys, m.After.Keys, m.After.Lost, m.After.Surplus)
	for _, l := range m.After.Losses {
		fmt.Fprintf(t, "\t%s\n", l)
	}
	fmt.Fprintf(t, "Pod restarts:\t%d\n", m.Restarts)
	fmt.Fprintf(t, "Process start time:\t%s: %s, run id %.8s…, by Redis's own account from memory\n", same, m.Process.Started.UTC().Format(time.DateTime), m.Process.RunID)
	return t.Flush()
}

func (c *Comparison) print(w io.Writer, live, stop Move) error {
	fmt.Fprintf(w, "\nLive migration against stop-and-copy of the same pod\n\n")
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "\tlive\tstop-and-copy\t")
	for _, row := range []struct {
		name string
		of   func(Move) time.Duration
	}{
		{"frozen time of the dump", Move.frozen},
		{"whole downtime", Move.downtime},
		{"as the client saw it", func(m Move) time.Duration { return m.Client.LongestGap }},
	} {
		fmt.Fprintf(t, "%s\t%s\t%s\t\n", row.name, progress.Duration(row.of(live)), progress.Duration(row.of(stop)))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w)
	t = tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, r := range c.Rows {
		verdict := "holds"
		if !r.OK() {
			verdict = "DOES NOT HOLD"
		}
		fmt.Fprintf(t, "%s\t%.2f of %.2f %s\t= %.2f\tbelow %g\t%s\n", r.What, r.Got, r.Of, r.Unit, r.Ratio(), r.Limit, verdict)
	}
	return t.Flush()
}
