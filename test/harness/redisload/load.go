// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package redisload

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// Pace says what a Load does.
type Pace struct {
	// Interval between two operations, as far as the server keeps up.
	Interval time.Duration
	// NewKeySize is the size of the values of keys that the load adds.
	NewKeySize int
	// MaxNewKeys is how many keys the load adds before it only overwrites.
	MaxNewKeys int
}

// DefaultPace is 100 operations a second on small keys, and now and then on a
// large one.
func DefaultPace() Pace {
	return Pace{Interval: 10 * time.Millisecond, NewKeySize: 1 << 10, MaxNewKeys: 4096}
}

// Gap is a time in which no operation succeeded.
type Gap struct {
	// From is the end of the last operation that succeeded before, To that of
	// the first one after.
	From, To time.Time
}

// Length is how long the gap was.
func (g Gap) Length() time.Duration { return g.To.Sub(g.From) }

// Stats is what a load has done so far.
type Stats struct {
	// Writes and Reads that succeeded, and attempts that failed.
	Writes, Reads, Errors int
	// Longest gap since the load began or since ResetGap.
	Longest Gap
	// Losses seen while reading.
	Losses []Loss
	// LastError is the last failed attempt's error, nil if there was none.
	LastError error
}

// Operations that succeeded.
func (s Stats) Operations() int { return s.Writes + s.Reads }

// Load writes and reads until it is stopped. It owns the ledger until then.
type Load struct {
	ledger *Ledger
	pace   Pace
	// filled is the number of keys that were there when the load began.
	filled int
	random *rand.Rand
	stop   context.CancelFunc
	done   chan struct{}

	mu      sync.Mutex
	stats   Stats
	last    time.Time
	changed chan struct{}
}

// StartLoad begins to work on the ledger's keys, which must not be none.
func StartLoad(ctx context.Context, l *Ledger, p Pace) *Load {
	ctx, cancel := context.WithCancel(ctx)
	load := &Load{
		ledger: l, pace: p, filled: l.Keys(), random: rand.New(rand.NewPCG(1, 2)),
		stop: cancel, done: make(chan struct{}), last: time.Now(), changed: make(chan struct{}),
	}
	go load.run(ctx)
	return load
}

// Stop ends the load and returns what it has done. The ledger is the caller's
// again.
func (l *Load) Stop() Stats {
	l.stop()
	<-l.done
	return l.Stats()
}

// Stats returns what the load has done so far.
func (l *Load) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.stats
	s.Losses = append([]Loss(nil), s.Losses...)
	return s
}

// ResetGap forgets the longest gap.
func (l *Load) ResetGap() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stats.Longest = Gap{}
}

// AwaitOperations returns when n more operations have succeeded.
func (l *Load) AwaitOperations(ctx context.Context, n int) error {
	l.mu.Lock()
	want := l.stats.Operations() + n
	for l.stats.Operations() < want {
		changed, last := l.changed, l.stats.LastError
		l.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait for the client's operations: %w; its last error: %w", context.Cause(ctx), last)
		}
		l.mu.Lock()
	}
	l.mu.Unlock()
	return nil
}

func (l *Load) run(ctx context.Context) {
	defer close(l.done)
	ticker := time.NewTicker(l.pace.Interval)
	defer ticker.Stop()
	for n := 0; ctx.Err() == nil; {
		if l.once(ctx, n) {
			n++
		}
		select {
		case <-ctx.Done():
		case <-ticker.C:
		}
	}
}

// once tries operation n and says whether it succeeded. An operation that
// failed is tried again until it succeeds, as an application would.
func (l *Load) once(ctx context.Context, n int) bool {
	if n%2 == 0 {
		err := l.ledger.Write(ctx, l.pick(n), l.pace.NewKeySize)
		l.note(err, nil, true)
		return err == nil
	}
	loss, err := l.ledger.Read(ctx, l.random.IntN(l.ledger.Keys()))
	l.note(err, loss, false)
	return err == nil
}

// pick chooses the key of write n: a new one while there may be more, else one
// of those, and every tenth time one that was there before.
func (l *Load) pick(n int) int {
	added := l.ledger.Keys() - l.filled
	switch {
	case added > 0 && l.unfinished():
		return l.ledger.Keys() - 1
	case (n/2)%10 == 9 && l.filled > 0:
		// The same key again after an error: n has not changed.
		return (n * 7919) % l.filled
	case added < l.pace.MaxNewKeys:
		return l.ledger.Keys()
	}
	return l.filled + (n/2)%added
}

// unfinished: the newest key's first write has not been acknowledged.
func (l *Load) unfinished() bool {
	e := l.ledger.entries[l.ledger.Keys()-1]
	return e.acked == 0
}

func (l *Load) note(err error, loss *Loss, write bool) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.stats.Errors++
		l.stats.LastError = err
		return
	}
	if gap := (Gap{l.last, now}); gap.Length() > l.stats.Longest.Length() {
		l.stats.Longest = gap
	}
	l.last = now
	if write {
		l.stats.Writes++
	} else {
		l.stats.Reads++
	}
	if loss != nil {
		l.stats.Losses = append(l.stats.Losses, *loss)
	}
	close(l.changed)
	l.changed = make(chan struct{})
}
