// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Package tsc measures the rate of the host's time stamp counter, which is also
// the emulated processors'.
package tsc

import (
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// samples is how many measurements are made; the median is taken.
	samples = 5
	// span is how long each takes.
	span = 20 * time.Millisecond
)

// read returns the counter.
func read() uint64

// KHz returns the counter's rate in kHz, right to about one in ten thousand.
func KHz() (int, error) {
	var rates []int
	for range samples {
		t0, c0, err := now()
		if err != nil {
			return 0, err
		}
		time.Sleep(span)
		t1, c1, err := now()
		if err != nil {
			return 0, err
		}
		if t1 <= t0 || c1 <= c0 {
			return 0, fmt.Errorf("the time stamp counter does not advance: %d to %d", c0, c1)
		}
		rates = append(rates, int(float64(c1-c0)/float64(t1-t0)*1e6))
	}
	slices.Sort(rates)
	return rates[samples/2], nil
}

// now returns the time in nanoseconds and the counter at the same instant: of a
// few tries the one that was interrupted least.
func now() (nanos int64, counter uint64, err error) {
	best := int64(-1)
	for range 10 {
		var before, after unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_MONOTONIC_RAW, &before); err != nil {
			return 0, 0, err
		}
		c := read()
		if err := unix.ClockGettime(unix.CLOCK_MONOTONIC_RAW, &after); err != nil {
			return 0, 0, err
		}
		if gap := after.Nano() - before.Nano(); best < 0 || gap < best {
			best, nanos, counter = gap, before.Nano()+gap/2, c
		}
	}
	return nanos, counter, nil
}
