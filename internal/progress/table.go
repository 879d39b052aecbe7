// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package progress

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"godwit.dev/godwit/api/v1alpha1"
)

// WriteTable writes the summary for people: a line per round and the final
// dump, then the downtime and its parts.
func (s Summary) WriteTable(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(label, value string) { fmt.Fprintf(tw, "%s\t%s\n", label, clean(value)) }
	row("Migration:", s.Name)
	row("Phase:", string(s.Phase))
	if s.Failure != nil {
		row("Failure:", s.Failure.Reason+": "+s.Failure.Message)
	} else if s.Message != "" {
		row("Message:", s.Message)
	}
	row("From:", place(s.Source.PodName, s.Source.NodeName))
	row("To:", place(s.Target.PodName, s.Target.NodeName))
	if s.DirtyTracking != nil && !*s.DirtyTracking {
		row("Dirty tracking:", "none on the source node, a single dump")
	}
	if s.ResidentBytes > 0 {
		row("Resident:", Bytes(s.ResidentBytes))
	}
	if s.Took.Duration > 0 {
		row("Took:", Duration(s.Took.Duration))
	}
	if s.BytesTransferred > 0 {
		row("Moved:", Bytes(s.BytesTransferred))
	}
	if err := tw.Flush(); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	if len(s.Rounds) > 0 || s.Final != nil {
		if err := s.writeDumps(w); err != nil {
			return err
		}
	}
	return s.writeDowntime(w)
}

func (s Summary) writeDumps(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, "\nROUND\tTOOK\tFROZEN\tSCANNED\tUNCHANGED\tWRITTEN\tMEMORY\tBYTES\tDIRTY LEFT\tPREDICTED\t")
	dump := func(label string, d Dump, dirty, predicted string) {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%d\t%d\t%d\t%s\t%s\t%s\t%s\t\n", label, Duration(d.Duration.Duration), Duration(d.Frozen.Duration),
			d.PagesScanned, d.PagesSkipped, d.PagesWritten, Bytes(d.MemoryBytes), Bytes(d.Bytes), dirty, predicted)
	}
	for _, r := range s.Rounds {
		predicted := "-"
		if r.PredictedDowntime != nil {
			predicted = Duration(r.PredictedDowntime.Duration)
		}
		dump(fmt.Sprint(r.Index), r.Dump, Bytes(r.DirtyBytes), predicted)
	}
	if s.Final != nil {
		predicted := "-"
		if s.Downtime != nil && s.Downtime.Predicted != nil {
			predicted = Duration(s.Downtime.Predicted.Duration)
		}
		dump("final", *s.Final, "-", predicted)
	}
	if err := tw.Flush(); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}

func (s Summary) writeDowntime(w io.Writer) error {
	d := s.Downtime
	if d == nil {
		return nil
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(tw, "\nDowntime:\t%s\t\n", Duration(d.Total.Duration))
	for _, p := range downtimeParts(d) {
		fmt.Fprintf(tw, "  %s\t%s\t%s\n", p.label, Duration(p.took), Bar(barWidth, int64(d.Total.Duration), int64(p.took)))
	}
	if err := tw.Flush(); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}

// part of a downtime.
type part struct {
	label string
	took  time.Duration
}

// downtimeParts are what the downtime was made of, in order.
func downtimeParts(d *v1alpha1.DowntimeStatus) []part {
	parts := []part{{"freeze and dump", d.FreezeAndDump.Duration}, {"hand-over", d.Handover.Duration}}
	if d.Replace != nil {
		parts = append(parts, part{"replacement", d.Replace.Duration})
	}
	return append(parts, part{"restore", d.Restore.Duration})
}

func place(pod, node string) string {
	if node == "" {
		node = "?"
	}
	if pod == "" {
		return "node " + node
	}
	return pod + " on " + node
}
