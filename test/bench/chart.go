// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import "strings"

// Measures of the chart.
const (
	chartWidth  = 860.0
	chartLeft   = 110.0
	chartRight  = 110.0
	barHeight   = 14.0
	barPitch    = 20.0
	panelTop    = 30.0
	panelBottom = 34.0
)

// bar of a chart.
type bar struct {
	methodInfo
	spread
}

// bars of a cell: the downtime by each method that was measured there.
func bars(rs results, c cell) []bar {
	var all []bar
	for _, m := range methods {
		if s := spreadOf(rs.values(c, m.name, downtime)); s.N > 0 {
			all = append(all, bar{m, s})
		}
	}
	return all
}

// downtimeChart draws the downtime by method, a panel for each cell with a scale of its
// own. The thin line leads from the shortest to the longest.
func downtimeChart(rs results) string {
	s := &svg{width: chartWidth, title: "Downtime by method, for each cell of the grid"}
	y := 8.0
	for _, c := range rs.cells() {
		all := bars(rs, c)
		if len(all) == 0 {
			continue
		}
		y = panel(s, y, c, all)
	}
	s.height = y
	return s.String()
}

// panel draws one cell from y on and returns where the next may begin.
func panel(s *svg, y float64, c cell, all []bar) float64 {
	longest := 0.0
	for _, b := range all {
		longest = max(longest, b.Max)
	}
	scale := (chartWidth - chartLeft - chartRight) / longest
	top, bottom := y+panelTop, y+panelTop+barPitch*float64(len(all))
	s.text(chartLeft, y+18, "start", inkColor, "%s", c.title())
	step := niceStep(longest)
	for i := 0; float64(i)*step <= longest*1.0001; i++ {
		x := chartLeft + float64(i)*step*scale
		s.line(x, top, x, bottom, lineColor)
		s.text(x, bottom+14, "middle", dimColor, "%s s", trimmed(float64(i)*step))
	}
	for i, b := range all {
		at := top + barPitch*float64(i) + (barPitch-barHeight)/2
		middle := at + barHeight/2
		s.text(chartLeft-8, middle+4, "end", inkColor, "%s", b.name)
		s.rect(chartLeft, at, b.Median*scale, barHeight, b.color)
		s.line(chartLeft+b.Min*scale, middle, chartLeft+b.Max*scale, middle, inkColor)
		s.text(chartLeft+b.Max*scale+6, middle+4, "start", inkColor, "%s s", seconds(b.Median))
	}
	return bottom + panelBottom
}

// trimmed writes a number without zeros at its end.
func trimmed(v float64) string {
	text := seconds3(v)
	return strings.TrimSuffix(strings.TrimRight(text, "0"), ".")
}
