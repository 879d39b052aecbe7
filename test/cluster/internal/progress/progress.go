// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Package progress tells a person what the tool is doing and how long it took.
package progress

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// heartbeat is how often a step that is still running says so.
const heartbeat = 30 * time.Second

// Reporter writes one line per event. It is safe for concurrent use.
type Reporter struct {
	mu      sync.Mutex
	out     io.Writer
	started time.Time
}

// New returns a reporter that writes to out and counts from now.
func New(out io.Writer) *Reporter {
	return &Reporter{out: out, started: time.Now()}
}

// Printf writes one line, with the time since the start before it.
func (r *Reporter) Printf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fmt.Fprintf(r.out, "[%6.1fs] %s\n", time.Since(r.started).Seconds(), fmt.Sprintf(format, args...))
}

// Step says that title begins, runs work, says every half minute that it still
// runs, and says how it ended.
func (r *Reporter) Step(title string, work func() error) error {
	r.Printf("%s ...", title)
	started := time.Now()
	finished := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(heartbeat)
		defer tick.Stop()
		for {
			select {
			case <-finished:
				return
			case <-tick.C:
				r.Printf("%s: still running after %.0fs", title, time.Since(started).Seconds())
			}
		}
	})
	err := work()
	close(finished)
	wg.Wait()
	if err != nil {
		r.Printf("%s: FAILED after %.1fs", title, time.Since(started).Seconds())
		return fmt.Errorf("%s: %w", title, err)
	}
	r.Printf("%s: done in %.1fs", title, time.Since(started).Seconds())
	return nil
}

// Elapsed is the time since the reporter was made.
func (r *Reporter) Elapsed() time.Duration { return time.Since(r.started) }
