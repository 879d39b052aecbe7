// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// askInterval is between two questions of a session that is busy.
const askInterval = 200 * time.Millisecond

// toldLimit is how long after a move a client that still waits counts as one that
// nobody tells that its connection is gone.
const toldLimit = 20 * time.Second

// ended is when a session broke, and what the client had seen last.
type ended struct {
	lastAnswer, at time.Time
	err            error
}

// watched is a session that is followed until its connection breaks. A busy one asks all
// the time; the other one has asked once, and waits for something to happen.
type watched struct {
	kind string
	done chan ended
	stop context.CancelFunc
}

// watch opens a session and follows it.
func watch(ctx context.Context, p program, address, kind string) (*watched, error) {
	s, err := p.dial(ctx, address)
	if err != nil {
		return nil, fmt.Errorf("open a session: %w", err)
	}
	if err := s.Ask(ctx); err != nil {
		s.Close()
		return nil, fmt.Errorf("the first question of a session: %w", err)
	}
	ctx, stop := context.WithCancel(ctx)
	w := &watched{kind: kind, done: make(chan ended, 1), stop: stop}
	go func() {
		defer s.Close()
		tick := time.NewTicker(askInterval)
		defer tick.Stop()
		last := time.Now()
		for {
			if err := s.Ask(ctx); err != nil {
				w.done <- ended{last, time.Now(), err}
				return
			}
			last = time.Now()
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	}()
	return w, nil
}

// sessions are the sessions of a move.
type sessions []*watched

func openSessions(ctx context.Context, p program, address string, n int) (sessions, error) {
	var list sessions
	for i := range n {
		w, err := watch(ctx, p, address, fmt.Sprintf("session %d", i))
		if err != nil {
			list.close()
			return nil, err
		}
		list = append(list, w)
	}
	return list, nil
}

func (l sessions) close() {
	for _, w := range l {
		w.stop()
	}
}

// told waits until every session has seen its end, and returns the longest time that
// one has waited for an answer before it did.
func (l sessions) told(ctx context.Context) (time.Duration, []string) {
	defer l.close()
	limit := time.NewTimer(toldLimit)
	defer limit.Stop()
	var mu sync.Mutex
	var longest time.Duration
	var problems []string
	for _, w := range l {
		select {
		case e := <-w.done:
			mu.Lock()
			longest = max(longest, e.at.Sub(e.lastAnswer))
			mu.Unlock()
		case <-limit.C:
			return longest, append(problems, fmt.Sprintf("%s: a client still waits for its answer %s after the move: nobody has told it that its connection is gone", w.kind, toldLimit))
		case <-ctx.Done():
			return longest, append(problems, ctx.Err().Error())
		}
	}
	return longest, problems
}
