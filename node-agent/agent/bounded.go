// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// volumeTimeout bounds steps on the volume that take a few round trips to its
// server: making directories, asking for the free space. A network file system
// whose server comes back answers within its own retry interval of well under this.
const volumeTimeout = 30 * time.Second

// Errors of bounded.
var (
	// errNoAnswer: the step did not end in time. Its outcome must be taken for a
	// failure; what it was doing may still happen, when the volume is back.
	errNoAnswer = errors.New("the volume or the node's disk does not answer")
	// errStuck: an earlier step on the same image set has not ended yet. Try
	// again later: the session is woken when it has.
	errStuck = errors.New("an earlier step still waits for the volume")
)

// pending counts the steps that were given up but have not ended, by the image
// set they work on: a system call on a volume that is away cannot be cancelled.
// As long as there is one, nothing else is begun on the set, lest there be two
// that write into it.
type pending struct {
	mu   sync.Mutex
	sets map[string]int
	// ended is called when the last step on a set has ended.
	ended func()
}

func (p *pending) stuck(set string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sets[set] > 0
}

func (p *pending) add(set string, n int) {
	p.mu.Lock()
	p.sets[set] += n
	none := p.sets[set] <= 0
	if none {
		delete(p.sets, set)
	}
	p.mu.Unlock()
	if none && p.ended != nil {
		p.ended()
	}
}

// bounded runs a step that may wait for the volume or a disk, and returns when
// it has ended or ctx has, whichever comes first. f gets ctx; it must hand its
// results back and change nothing else that the caller looks at later.
func bounded[T any](ctx context.Context, p *pending, set, what string, f func(ctx context.Context) (T, error)) (T, error) {
	var none T
	if err := ctx.Err(); err != nil {
		return none, fmt.Errorf("%s: %w", what, err)
	}
	if p.stuck(set) {
		return none, fmt.Errorf("%s: %w", what, errStuck)
	}
	type outcome struct {
		value T
		err   error
	}
	var mu sync.Mutex
	var ended, abandoned bool
	out := make(chan outcome, 1)
	go func() {
		v, err := f(ctx)
		out <- outcome{v, err}
		mu.Lock()
		defer mu.Unlock()
		ended = true
		if abandoned {
			p.add(set, -1)
		}
	}()
	select {
	case o := <-out:
		return o.value, o.err
	case <-ctx.Done():
	}
	mu.Lock()
	defer mu.Unlock()
	if !ended {
		abandoned = true
		p.add(set, 1)
	}
	return none, fmt.Errorf("%s: %w: %w", what, errNoAnswer, ctx.Err())
}

// onVolume is bounded for the session's image set, with a time limit.
func onVolume[T any](ctx context.Context, s *sessionBase, limit time.Duration, what string, f func(ctx context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return bounded(ctx, &s.pending, string(s.uid), what, f)
}
