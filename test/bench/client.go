// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

const (
	// askInterval is how often the client asks; no gap is seen finer than this.
	askInterval = 100 * time.Millisecond
	// askTimeout is its patience with one request.
	askTimeout = time.Second
	// settled is how many answers in a row show that the service works.
	settled = 10
)

// gapMeter finds the longest time without an answer. The zero value is ready.
type gapMeter struct {
	last     time.Time
	longest  time.Duration
	inARow   int
	failures int
}

// note takes the outcome of a request in, in the order in which they end.
func (g *gapMeter) note(answered bool, at time.Time) {
	if !answered {
		g.failures++
		g.inARow = 0
		return
	}
	g.inARow++
	if !g.last.IsZero() {
		g.longest = max(g.longest, at.Sub(g.last))
	}
	g.last = at
}

// asker is a client that asks again and again, each time over a new connection and
// without waiting for the request before, so that one that hangs delays nothing.
type asker struct {
	url  string
	http http.Client
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu      sync.Mutex
	meter   gapMeter
	lastErr error
	changed chan struct{}
}

// ask starts a client of the server at the address.
func ask(ctx context.Context, address string) *asker {
	ctx, stop := context.WithCancel(ctx)
	a := &asker{
		url: "http://" + address + "/healthz", stop: stop, changed: make(chan struct{}),
		http: http.Client{Timeout: askTimeout, Transport: &http.Transport{DisableKeepAlives: true}},
	}
	a.wg.Go(func() {
		tick := time.NewTicker(askInterval)
		defer tick.Stop()
		for {
			a.wg.Go(func() { a.once(ctx) })
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	})
	return a
}

func (a *asker) once(ctx context.Context) {
	err := a.get(ctx)
	if ctx.Err() != nil {
		return // nobody wants to know any more
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.meter.note(err == nil, time.Now())
	if err != nil {
		a.lastErr = err
	}
	close(a.changed)
	a.changed = make(chan struct{})
}

func (a *asker) get(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.url, nil)
	if err != nil {
		return err
	}
	res, err := a.http.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", res.StatusCode)
	}
	return nil
}

// awaitSettled returns when the last requests were all answered.
func (a *asker) awaitSettled(ctx context.Context) error {
	for {
		a.mu.Lock()
		done, changed, last := a.meter.inARow >= settled, a.changed, a.lastErr
		a.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait for the client to be answered: %w; its last error: %w", context.Cause(ctx), last)
		}
	}
}

// reset forgets the longest gap and the failures. The next answer ends a gap that
// began with the last.
func (a *asker) reset() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.meter = gapMeter{last: a.meter.last}
}

// seen is the longest gap and the number of failed requests since the reset.
func (a *asker) seen() (longest time.Duration, failures int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.meter.longest, a.meter.failures
}

// close ends the client.
func (a *asker) close() {
	a.stop()
	a.wg.Wait()
}
