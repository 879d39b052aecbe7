// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"
)

func newTestMemory(t *testing.T, pages uint64) *memory {
	t.Helper()
	m, err := newMemory(pages*pageSize, 7, false)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestVerifyAcceptsWhatWasWritten(t *testing.T) {
	m := newTestMemory(t, 16)
	before := m.verify()
	if !before.ok() || before.Pages != 16 || before.Writes != 16 {
		t.Fatalf("after filling: %+v", before)
	}
	m.write(3, 3, 5)
	after := m.verify()
	if !after.ok() || after.Writes != 19 {
		t.Fatalf("after three writes: %+v", after)
	}
	if before.Checksum == after.Checksum {
		t.Fatal("writes did not change the checksum")
	}
}

func TestVerifyFindsDamage(t *testing.T) {
	for name, damage := range map[string]func(*memory){
		"a flipped bit":         func(m *memory) { m.page(4)[100] ^= 1 },
		"a page full of zeroes": func(m *memory) { clear(m.page(4)) },
		"two pages exchanged":   func(m *memory) { copy(m.page(4), m.page(5)) },
	} {
		t.Run(name, func(t *testing.T) {
			m := newTestMemory(t, 16)
			damage(m)
			r := m.verify()
			if r.ok() || r.Corrupt != 1 || r.FirstCorrupt == nil || *r.FirstCorrupt != 4 {
				t.Fatalf("report: %+v", r)
			}
		})
	}
}

func TestVerifyFindsAPageOfAnEarlierState(t *testing.T) {
	m := newTestMemory(t, 16)
	var old [pageSize]byte
	copy(old[:], m.page(9))
	m.write(9)
	copy(m.page(9), old[:])
	if r := m.verify(); r.Corrupt != 1 {
		t.Fatalf("report: %+v", r)
	}
}

func TestVerifyFindsALostCount(t *testing.T) {
	m := newTestMemory(t, 4)
	// The page and its version fell back together; the sum did not.
	m.writes++
	if m.verify().ok() {
		t.Fatal("a lost write was accepted")
	}
}

func TestSameSeedSameContents(t *testing.T) {
	a, b := newTestMemory(t, 8), newTestMemory(t, 8)
	if a.verify().Checksum != b.verify().Checksum {
		t.Fatal("equal memories have different checksums")
	}
}

func TestPatterns(t *testing.T) {
	const pages = 1000
	inRange := func(chosen []uint64, limit uint64) {
		t.Helper()
		for _, p := range chosen {
			if p >= limit {
				t.Fatalf("page %d is not below %d", p, limit)
			}
		}
	}
	k := newPicker(pages, 5, 1)
	inRange(k.pick(hot, 5000), 50)
	all := k.pick(uniform, 5000)
	inRange(all, pages)
	distinct := map[uint64]bool{}
	for _, p := range all {
		distinct[p] = true
	}
	if len(distinct) < 900 {
		t.Errorf("uniform touched %d pages of %d", len(distinct), pages)
	}
	seq := k.pick(sequential, pages+1)
	if seq[0] != 0 || seq[1] != 1 || seq[pages] != 0 {
		t.Errorf("sequential: %d, %d, …, %d", seq[0], seq[1], seq[pages])
	}
	if got := k.pick(none, 10); len(got) != 0 {
		t.Errorf("none wrote %d pages", len(got))
	}
	if _, err := parsePattern("zigzag"); err == nil {
		t.Error("an unknown pattern was accepted")
	}
}

func TestWriterKeepsItsRate(t *testing.T) {
	m := newTestMemory(t, 64)
	base := m.written()
	const ms = int64(1e6)
	// 100 pages a second, in steps of 5 ms.
	w := newWriter(m, newPicker(64, 5, 1), uniform, 100*pageSize, 0)
	for now := 5 * ms; now <= 1000*ms; now += 5 * ms {
		w.step(now)
	}
	if got := m.written() - base; got < 99 || got > 100 {
		t.Errorf("%d pages in a second, want 100", got)
	}
	base = m.written()
	w.step(60_000 * ms) // A minute in which the process did not run.
	if got := m.written() - base; got > 11 {
		t.Errorf("it made up for a pause with %d pages", got)
	}
	base = m.written()
	w.step(1000 * ms) // Another machine's clock.
	if got := m.written() - base; got > 1 {
		t.Errorf("a clock that stepped back made %d pages due", got)
	}
}

func TestGaps(t *testing.T) {
	g := newGaps(reading{})
	g.tick(reading{monotonic: 5, wall: 5})
	g.tick(reading{monotonic: 905, wall: 1005})
	g.tick(reading{monotonic: 100, wall: 1010})
	r := g.reset()
	want := gapReport{Ticks: 3, LongestNanoseconds: 900, LongestWallNanoseconds: 1000, ClockSteps: 1, LongestStepNanoseconds: 805}
	if r != want {
		t.Fatalf("report %+v, want %+v", r, want)
	}
	g.tick(reading{monotonic: 107, wall: 1017})
	if r := g.report(); r.LongestNanoseconds != 7 || r.Ticks != 4 || r.ClockSteps != 0 {
		t.Fatalf("after the reset: %+v", r)
	}
}
