// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
)

// cell is a place in the grid: what the process that is moved is like.
type cell struct {
	SizeMiB int `json:"sizeMiB"`
	// RatePercent of the memory is written per second.
	RatePercent float64 `json:"ratePercent"`
	// Pattern of writing; "" at rate 0.
	Pattern string `json:"pattern,omitempty"`
}

// name is "256MiB-1%-uniform".
func (c cell) name() string {
	name := fmt.Sprintf("%dMiB-%s%%", c.SizeMiB, strconv.FormatFloat(c.RatePercent, 'g', -1, 64))
	if c.Pattern != "" {
		name += "-" + c.Pattern
	}
	return name
}

// title is the same for people: "256 MiB, 1 %/s uniform".
func (c cell) title() string {
	title := fmt.Sprintf("%d MiB, %s %%/s", c.SizeMiB, strconv.FormatFloat(c.RatePercent, 'g', -1, 64))
	if c.Pattern != "" {
		title += " " + c.Pattern
	}
	return title
}

// mibPerSecond that are written.
func (c cell) mibPerSecond() float64 { return float64(c.SizeMiB) * c.RatePercent / 100 }

func compareCells(a, b cell) int {
	return cmp.Or(cmp.Compare(a.SizeMiB, b.SizeMiB), cmp.Compare(a.RatePercent, b.RatePercent), cmp.Compare(a.Pattern, b.Pattern))
}

// step is one measurement. Those of repetition 0 warm the cluster up.
type step struct {
	rep    int
	cell   cell
	method string
}

// name is what RUN is matched with.
func (s step) name() string { return s.cell.name() + "/" + s.method }

// place is a cell and where in the grid it is.
type place struct {
	cell
	// middle: the arms of the cross meet here. onSizes: on the arm along which the
	// size changes. onCross: on any arm. small: no larger than the middle.
	middle, onSizes, onCross, small bool
}

// grid makes the cells of the full grid. Without writes there is one cell whatever
// the patterns. The cross goes through the middle size and rate and the first
// pattern.
func grid(p params) []place {
	size, rate := p.sizes[len(p.sizes)/2], p.rates[len(p.rates)/2]
	var all []place
	for _, s := range p.sizes {
		for _, r := range p.rates {
			for i, pattern := range p.patterns {
				if r == 0 {
					pattern = ""
				}
				off := 0
				for _, differs := range []bool{s != size, r != rate, i > 0 && r != 0} {
					if differs {
						off++
					}
				}
				l := place{cell: cell{s, r, pattern}, middle: off == 0, onCross: off <= 1, onSizes: r == rate && (i == 0 || r == 0), small: s <= size}
				if !slices.ContainsFunc(all, func(o place) bool { return o.cell == l.cell }) {
					all = append(all, l)
				}
			}
		}
	}
	return all
}

// measured says whether the method is measured there in the default grid.
func (l place) measured(m methodInfo) bool {
	switch m.reach {
	case everywhere:
		return l.onCross
	case alongSizes:
		return l.onSizes
	case upToTheMiddle:
		return l.onSizes && l.small
	default:
		return l.middle
	}
}

// plan lists the steps in their order. The methods are interleaved: one repetition
// of all of them in all cells comes after the other, so that what changes on the
// machine meanwhile meets all of them, and their order changes from one repetition
// to the next. What is measured apart comes after all of that.
func plan(p params) []step {
	compared := slices.DeleteFunc(slices.Clone(p.methods), apart)
	alone := slices.DeleteFunc(slices.Clone(p.methods), func(name string) bool { return !apart(name) })
	all := append(repeated(p, compared), repeated(p, alone)...)
	// There and back: page caches, connections, and each node's idea of what a
	// switchover costs.
	if i := slices.IndexFunc(all, func(s step) bool { return s.method == precopy }); i >= 0 {
		warm := step{0, all[i].cell, precopy}
		all = append([]step{warm, warm}, all...)
	}
	return all
}

func apart(name string) bool {
	m, _ := info(name)
	return m.apart
}

// repeated are all repetitions of some of the methods.
func repeated(p params, names []string) []step {
	var all []step
	for rep := 1; rep <= p.reps; rep++ {
		for _, l := range grid(p) {
			for _, name := range order(names, rep) {
				m, _ := info(name)
				s := step{rep, l.cell, name}
				if (p.full || l.measured(m)) && (p.filter == nil || p.filter.MatchString(s.name())) {
					all = append(all, s)
				}
			}
		}
	}
	return all
}

// order turns the methods round by one place each repetition. The floors come right
// after what they are the floor of, with as many rounds as that took.
func order(names []string, rep int) []string {
	var floors, others, turned []string
	for _, n := range names {
		if m, _ := info(n); m.criuOnly {
			floors = append(floors, n)
		} else {
			others = append(others, n)
		}
	}
	if !slices.Contains(others, precopy) {
		turned = append(turned, floors...)
	}
	for i := range others {
		n := others[(i+rep-1)%len(others)]
		turned = append(turned, n)
		if n == precopy {
			turned = append(turned, floors...)
		}
	}
	return turned
}

// minutes is a rough estimate of how long the steps take on emulated nodes, without
// the cluster's start.
func minutes(steps []step) float64 {
	var seconds float64
	size, rep := 0, 0
	for _, s := range steps {
		m, _ := info(s.method)
		seconds += m.fixed + m.perMiB*float64(s.cell.SizeMiB)
		if s.cell.SizeMiB != size || s.rep != rep {
			// A pod of that size is started.
			seconds += 10 + 0.02*float64(s.cell.SizeMiB)
			size, rep = s.cell.SizeMiB, s.rep
		}
	}
	return seconds / 60
}
