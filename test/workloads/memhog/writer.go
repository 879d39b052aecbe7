// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"sync"
	"time"
)

// maxStep bounds what one step of the writer makes up for: after a time in
// which the process did not run it goes on at its rate and does not catch up.
const maxStep = 100 * time.Millisecond

// writer dirties the memory at a rate.
type writer struct {
	memory *memory
	picker *picker

	mu      sync.Mutex
	pattern pattern
	// rate is in bytes per second.
	rate float64
	// due is the part of a page that earlier steps left over.
	due  float64
	last int64
}

// newWriter starts counting time at now, a reading of the monotonic clock in
// nanoseconds.
func newWriter(m *memory, k *picker, p pattern, rate float64, now int64) *writer {
	return &writer{memory: m, picker: k, pattern: p, rate: rate, last: now}
}

// set changes what is written from now on.
func (w *writer) set(p pattern, rate float64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pattern, w.rate, w.due = p, rate, 0
}

func (w *writer) load() (pattern, float64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pattern, w.rate
}

// step writes what is due at now. A clock that went backwards, as it may when
// the process continues on another machine, makes nothing due.
func (w *writer) step(now int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	passed := min(max(0, time.Duration(now-w.last)), maxStep)
	w.last = now
	w.due += w.rate * passed.Seconds() / pageSize
	n := uint64(w.due)
	w.due -= float64(n)
	w.memory.write(w.picker.pick(w.pattern, n)...)
}
