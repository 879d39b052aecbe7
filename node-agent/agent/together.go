// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"sync"
)

// together is a step that several wait for, and that the last of them carries out.
type together struct {
	do   func(ctx context.Context) error
	done chan struct{}
	err  error // valid once done is closed

	mu      sync.Mutex
	missing int
}

func newTogether(n int, do func(ctx context.Context) error) *together {
	return &together{do: do, done: make(chan struct{}), missing: n}
}

// arrive returns what the step has come to, or earlier, with ctx.
func (t *together) arrive(ctx context.Context) error {
	t.mu.Lock()
	t.missing--
	last := t.missing == 0
	t.mu.Unlock()
	if last {
		t.err = t.do(ctx)
		close(t.done)
		return t.err
	}
	select {
	case <-t.done:
		return t.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// await says whether the step has been carried out, and without an error.
func (t *together) await(ctx context.Context) bool {
	select {
	case <-t.done:
		return t.err == nil
	case <-ctx.Done():
		return false
	}
}
