// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"godwit.dev/godwit/node-agent/runtime/fake"
)

// ledger watches one logical process over all its containers. Its counter must
// go up by exactly one with each step, wherever the step is done.
type ledger struct {
	t *testing.T

	mu    sync.Mutex
	last  uint64
	by    string
	wrong []string
	// rewound: the next step may be one that was done before.
	rewound bool
}

// run lets the container's process work until ctx ends or it is gone for good.
func (l *ledger) run(ctx context.Context, c *fake.Container) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if c.IsKilled() {
				return
			}
			l.step(c)
		}
	}
}

func (l *ledger) step(c *fake.Container) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !c.Tick() {
		return
	}
	n := c.Count()
	if l.rewound {
		if l.rewound = false; n > l.last+1 {
			l.wrong = append(l.wrong, fmt.Sprintf("step %d by %s, rewound from %d", n, c.Info().ID, l.last))
		}
	} else if n != l.last+1 {
		l.wrong = append(l.wrong, fmt.Sprintf("step %d by %s after step %d by %s", n, c.Info().ID, l.last, l.by))
	}
	l.last, l.by = n, c.Info().ID
}

// steps and holder say how far the process is and which container did the last step.
func (l *ledger) state() (steps uint64, holder string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last, l.by
}

// lost says that the process was killed on purpose: another begins anew.
func (l *ledger) lost() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = 0
}

// rewind says that a person has chosen to go on from where the process was frozen:
// it repeats what was done since.
func (l *ledger) rewind() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rewound = true
}

// check fails the test if a step was lost or done twice.
func (l *ledger) check() {
	l.t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range l.wrong {
		l.t.Errorf("the process did not run exactly once: %s", w)
	}
}
