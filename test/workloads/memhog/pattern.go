// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"strings"
)

// pattern says which page is written next.
type pattern string

const (
	// uniform writes pages at random, all alike.
	uniform pattern = "uniform"
	// hot writes a small region at random, and only that.
	hot pattern = "hot"
	// sequential writes one page after the other, round and round.
	sequential pattern = "sequential"
	// none writes nothing.
	none pattern = "none"
)

var patterns = []pattern{uniform, hot, sequential, none}

func parsePattern(s string) (pattern, error) {
	if p := pattern(s); slices.Contains(patterns, p) {
		return p, nil
	}
	return "", fmt.Errorf("pattern %q is none of %s", s, strings.Trim(fmt.Sprint(patterns), "[]"))
}

// picker chooses pages. It is deterministic: the same seed gives the same
// pages.
type picker struct {
	pages    uint64
	hotPages uint64
	random   splitMix
	position uint64
}

// newPicker chooses among pages; the hot region is the given percentage of
// them, one page at least.
func newPicker(pages uint64, hotPercent float64, seed uint64) *picker {
	return &picker{
		pages:    pages,
		hotPages: min(pages, max(1, uint64(float64(pages)*hotPercent/100))),
		random:   splitMix(seed),
	}
}

// pick returns the next n pages of a pattern.
func (k *picker) pick(p pattern, n uint64) []uint64 {
	if p == none {
		return nil
	}
	chosen := make([]uint64, n)
	for i := range chosen {
		switch p {
		case hot:
			chosen[i] = k.random.next() % k.hotPages
		case sequential:
			chosen[i] = k.position
			k.position = (k.position + 1) % k.pages
		default:
			chosen[i] = k.random.next() % k.pages
		}
	}
	return chosen
}
