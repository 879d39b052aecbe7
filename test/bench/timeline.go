// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"math"
	"slices"
)

// spanColors are taken in turn.
var spanColors = []string{"#54aeff", "#0969da", "#8250df", "#bf8700", "#4ac26b", "#1a7f37", "#8c959f"}

// typical is the migration to show a switchover of: of the largest cell at 1 %/s, or
// else the largest, the one whose downtime is nearest to the median. nil when there is
// none with its parts.
func typical(rs results) *result {
	cells := slices.DeleteFunc(rs.cells(), func(c cell) bool { return len(withSpans(rs, c)) == 0 })
	if len(cells) == 0 {
		return nil
	}
	slices.SortStableFunc(cells, func(a, b cell) int {
		one := func(c cell) int {
			if c.RatePercent == 1 {
				return 1
			}
			return 0
		}
		return cmp.Or(cmp.Compare(b.SizeMiB, a.SizeMiB), cmp.Compare(one(b), one(a)), cmp.Compare(b.Pattern, a.Pattern))
	})
	some := withSpans(rs, cells[0])
	var totals []float64
	for _, r := range some {
		totals = append(totals, reportedDowntime(r))
	}
	median := spreadOf(totals).Median
	return slices.MinFunc(some, func(a, b *result) int {
		return cmp.Compare(math.Abs(reportedDowntime(a)-median), math.Abs(reportedDowntime(b)-median))
	})
}

func withSpans(rs results, c cell) []*result {
	return slices.DeleteFunc(rs.of(c, precopy), func(r *result) bool { return len(r.Spans) == 0 })
}

// floorOf is the move by bare CRIU that belongs to a migration, nil if there is none.
func floorOf(rs results, r *result) *result {
	for _, o := range rs.of(r.cell, floor) {
		if o.Run == r.Run && o.Rep == r.Rep && o.CRIU != nil {
			return o
		}
	}
	return nil
}

// floorSpans are what bare CRIU took, one after the other.
func floorSpans(r *result) []span {
	held := r.CRIU.FreezingSeconds + r.CRIU.FrozenSeconds
	return []span{
		{Lane: floor, Name: "held by the last dump", To: held},
		{Lane: floor, Name: "restore", From: held, To: held + r.CRIU.RestoreSeconds},
	}
}

// timeline draws a switchover from the freeze on, and below it the same by bare CRIU.
// Each part has a number, and the list below says what it is.
func timeline(rs results, r *result) string {
	all := slices.Clone(r.Spans)
	lanes := []string{"source", "between", "target"}
	if f := floorOf(rs, r); f != nil {
		all = append(all, floorSpans(f)...)
		lanes = append(lanes, floor)
	}
	longest := 0.0
	for _, p := range all {
		longest = max(longest, p.To)
	}
	const top, pitch, height = 40.0, 34.0, 22.0
	bottom := top + pitch*float64(len(lanes))
	s := &svg{width: chartWidth, title: "One switchover of " + r.title() + ", from the freeze to the first instruction on the target"}
	scale := (chartWidth - chartLeft - 30) / longest
	s.text(chartLeft, 24, "start", inkColor, "%s: %s s from the freeze on", r.title(), seconds(r.Spans[len(r.Spans)-1].To))
	step := niceStep(longest)
	for i := 0; float64(i)*step <= longest*1.0001; i++ {
		x := chartLeft + float64(i)*step*scale
		s.line(x, top, x, bottom, lineColor)
		s.text(x, bottom+14, "middle", dimColor, "%s s", trimmed(float64(i)*step))
	}
	for i, lane := range lanes {
		s.text(chartLeft-8, top+pitch*float64(i)+height/2+8, "end", inkColor, "%s", lane)
	}
	y := bottom + 40
	for i, p := range all {
		color := spanColors[i%len(spanColors)]
		row := top + pitch*float64(slices.Index(lanes, p.Lane)) + 4
		s.rect(chartLeft+p.From*scale, row, max((p.To-p.From)*scale, 1), height, color)
		s.text(chartLeft+(p.From+p.To)/2*scale, row-2, "middle", dimColor, "%d", i+1)
		s.rect(chartLeft, y-10, 12, 12, color)
		s.text(chartLeft+20, y, "start", inkColor, "%d  %s: %s, %s s", i+1, p.Lane, p.Name, seconds(p.To-p.From))
		y += 18
	}
	s.height = y
	return s.String()
}
