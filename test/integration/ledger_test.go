// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"godwit.dev/godwit/node-agent/runtime/fake"
)

// ledger watches the logical processes of a pod, one for each name of a container, over
// all their containers. Each counter must go up by exactly one with each step, wherever
// the step is done.
type ledger struct {
	t *testing.T

	mu     sync.Mutex
	tracks map[string]*track
	wrong  []string
	// present, if set, is asked at a container's first step who else is there: all of
	// the chorus have to be.
	chorus  []string
	present func(podUID string) []string
}

// track is how far one process has come.
type track struct {
	last uint64
	by   string
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

func (l *ledger) track(name string) *track {
	if l.tracks == nil {
		l.tracks = map[string]*track{}
	}
	if l.tracks[name] == nil {
		l.tracks[name] = &track{}
	}
	return l.tracks[name]
}

func (l *ledger) step(c *fake.Container) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !c.Tick() {
		return
	}
	n, t := c.Count(), l.track(c.Info().Name)
	if t.rewound {
		if t.rewound = false; n > t.last+1 {
			l.wrong = append(l.wrong, fmt.Sprintf("step %d by %s, rewound from %d", n, c.Info().ID, t.last))
		}
	} else if n != t.last+1 {
		l.wrong = append(l.wrong, fmt.Sprintf("step %d by %s after step %d by %s", n, c.Info().ID, t.last, t.by))
	}
	if t.by != "" && t.by != c.Info().ID && len(l.chorus) > 0 {
		if there := l.present(c.Info().PodUID); !slices.Equal(there, l.chorus) {
			l.wrong = append(l.wrong, fmt.Sprintf("%s runs, and beside it there are only %v", c.Info().ID, there))
		}
	}
	t.last, t.by = n, c.Info().ID
}

// state says how far the process of the first container is and which container did the
// last step.
func (l *ledger) state() (steps uint64, holder string) { return l.stateOf("main") }

func (l *ledger) stateOf(name string) (steps uint64, holder string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.track(name)
	return t.last, t.by
}

// lost says that the process was killed on purpose: another begins anew.
func (l *ledger) lost() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, t := range l.tracks {
		t.last = 0
	}
}

// rewind says that a person has chosen to go on from where the process was frozen:
// it repeats what was done since.
func (l *ledger) rewind() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, t := range l.tracks {
		t.rewound = true
	}
}

// check fails the test if a step was lost or done twice.
func (l *ledger) check() {
	l.t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range l.wrong {
		l.t.Errorf("the processes did not run exactly once: %s", w)
	}
}
