// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// every calls f again and again with a pause of period between, on a thread of
// its own and with the kernel's relative sleep. Timers of the Go runtime hold an
// absolute reading of the monotonic clock, and a process that continues on
// another machine may find that clock hours behind: its timers would not fire
// for as long.
func every(period time.Duration, f func()) {
	go func() {
		runtime.LockOSThread()
		for {
			ts := unix.NsecToTimespec(period.Nanoseconds())
			// A signal may cut the pause short: f takes the time itself.
			_ = unix.Nanosleep(&ts, nil)
			f()
		}
	}()
}

// reading is a moment on the kernel's clocks, in nanoseconds.
type reading struct {
	monotonic, wall int64
}

func readClocks() reading {
	return reading{monotonic: readClock(unix.CLOCK_MONOTONIC), wall: readClock(unix.CLOCK_REALTIME)}
}

func readClock(id int32) int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(id, &ts); err != nil {
		// Both clocks exist on every Linux.
		panic(err)
	}
	return ts.Nano()
}

// gaps watches for times in which the process did not run.
type gaps struct {
	mu   sync.Mutex
	last reading
	seen gapReport
}

// gapReport says how long the process did not run, at the longest, since the
// start or the last reset.
type gapReport struct {
	// Ticks counts looks at the clock.
	Ticks uint64 `json:"ticks"`
	// LongestNanoseconds is measured on the monotonic clock.
	LongestNanoseconds int64 `json:"longestGapNanoseconds"`
	// LongestWallNanoseconds is measured on the wall clock, which machines
	// share more or less.
	LongestWallNanoseconds int64 `json:"longestWallGapNanoseconds"`
	// ClockSteps counts the times that the monotonic clock went backwards,
	// which it does only when the process gets another machine's clock.
	ClockSteps uint64 `json:"clockSteps"`
	// LongestStepNanoseconds is the largest of those steps.
	LongestStepNanoseconds int64 `json:"longestStepNanoseconds"`
}

func newGaps(now reading) *gaps { return &gaps{last: now} }

// tick takes a look at the clock.
func (g *gaps) tick(now reading) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.seen.Ticks++
	d := now.monotonic - g.last.monotonic
	g.seen.LongestNanoseconds = max(g.seen.LongestNanoseconds, d)
	g.seen.LongestWallNanoseconds = max(g.seen.LongestWallNanoseconds, now.wall-g.last.wall)
	if d < 0 {
		g.seen.ClockSteps++
		g.seen.LongestStepNanoseconds = max(g.seen.LongestStepNanoseconds, -d)
	}
	g.last = now
}

func (g *gaps) report() gapReport {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.seen
}

// reset forgets the longest gap and returns what was known until now. Ticks
// go on counting.
func (g *gaps) reset() gapReport {
	g.mu.Lock()
	defer g.mu.Unlock()
	old := g.seen
	g.seen = gapReport{Ticks: old.Ticks}
	return old
}
