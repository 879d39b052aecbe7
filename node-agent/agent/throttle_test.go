// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"testing"
	"time"

	"github.com/go-logr/logr"

	"godwit.dev/godwit/node-agent/runtime"
)

// slowed returns a source session of a pod whose container has been slowed down
// to the percentages, one after the other.
func slowed(t *testing.T, before runtime.CPULimit, percent ...int32) (*world, *sourceSession) {
	t.Helper()
	w := newWorld(t)
	must(t, w.node.Limit(t.Context(), w.c.Info(), before))
	s := &sourceSession{sessionBase: sessionBase{Agent: w.Agent, uid: goneUID, log: logr.Discard()}}
	s.containers = []runtime.Container{w.c.Info()}
	s.cpu = map[string]cpuUse{w.c.Info().ID: {0, w.now.Add(-time.Second)}}
	for range 800 { // of a second, by the fake's account
		w.c.Tick()
	}
	for _, p := range percent {
		must(t, s.throttle(t.Context(), p))
	}
	return w, s
}

const period = 100 * time.Millisecond

func TestThrottleTakesOfWhatWasUsed(t *testing.T) {
	w, s := slowed(t, runtime.CPULimit{Period: period}, 50)
	if got := w.c.Limit().Quota; got != 40*time.Millisecond {
		t.Errorf("half of 0.8 CPUs is %s in %s", got, period)
	}
	// It has used less since, which is not what the next step is of.
	must(t, s.throttle(t.Context(), 25))
	if got := w.c.Limit().Quota; got != 20*time.Millisecond {
		t.Errorf("a quarter of 0.8 CPUs is %s in %s", got, period)
	}
	must(t, s.release(t.Context(), goneUID))
	if got := w.c.Limit(); got != (runtime.CPULimit{Period: period}) {
		t.Errorf("afterwards it has %+v", got)
	}
	must(t, s.release(t.Context(), goneUID))
}

func TestThrottleNeverGivesMore(t *testing.T) {
	before := runtime.CPULimit{Quota: 10 * time.Millisecond, Period: period}
	w, _ := slowed(t, before, 50)
	if got := w.c.Limit(); got != before {
		t.Errorf("it has %+v of %+v", got, before)
	}
}

// An orphan's limit goes with the sweep, also one that was recorded and then not
// set, or one of an earlier step.
func TestTheSweepGivesCPUTimeBack(t *testing.T) {
	before := runtime.CPULimit{Period: period}
	for name, now := range map[string]runtime.CPULimit{
		"last step":    {Quota: 20 * time.Millisecond, Period: period},
		"earlier step": {Quota: 40 * time.Millisecond, Period: period},
		"not set yet":  before,
	} {
		t.Run(name, func(t *testing.T) {
			w, _ := slowed(t, before, 50, 25)
			must(t, w.node.Limit(t.Context(), w.c.Info(), now))
			must(t, w.sweep(t.Context()))
			if got := w.c.Limit(); got != before {
				t.Errorf("it has %+v", got)
			}
			if left, err := w.throttles().all(); err != nil || len(left) > 0 {
				t.Errorf("records left: %v, %v", left, err)
			}
		})
	}
}

// A limit that was changed meanwhile, as by a resize of the pod, stays.
func TestWhatSomebodyElseSetStays(t *testing.T) {
	resized := runtime.CPULimit{Quota: 30 * time.Millisecond, Period: period}
	w, _ := slowed(t, runtime.CPULimit{Period: period}, 50)
	must(t, w.node.Limit(t.Context(), w.c.Info(), resized))
	must(t, w.sweep(t.Context()))
	if got := w.c.Limit(); got != resized {
		t.Errorf("it has %+v, was resized to %+v", got, resized)
	}
}

// The limits that a pod has are lifted while it is frozen, and come back whatever ends
// that, a crash of the agent included.
func TestLimitsAreLiftedWhileFrozen(t *testing.T) {
	before := runtime.CPULimit{Quota: 10 * time.Millisecond, Period: period}
	none := runtime.CPULimit{Period: period}
	for name, end := range map[string]func(*world, *sourceSession) error{
		"released": func(_ *world, s *sourceSession) error { return s.release(t.Context(), goneUID) },
		"swept":    func(w *world, _ *sourceSession) error { return w.sweep(t.Context()) },
	} {
		for slow, percents := range map[string][]int32{"": nil, " and slowed down": {50, 25}} {
			t.Run(name+slow, func(t *testing.T) {
				w, s := slowed(t, before, percents...)
				rec, err := s.recordLimits(t.Context())
				must(t, err)
				must(t, s.lift(t.Context(), rec))
				if got := w.c.Limit(); got != none {
					t.Errorf("frozen it has %+v", got)
				}
				must(t, end(w, s))
				if got := w.c.Limit(); got != before {
					t.Errorf("afterwards it has %+v", got)
				}
				if left, err := w.lifts().all(); err != nil || len(left) > 0 {
					t.Errorf("records left: %v, %v", left, err)
				}
			})
		}
	}
}

func TestNoLimitsNoRecord(t *testing.T) {
	w, s := slowed(t, runtime.CPULimit{Period: period})
	rec, err := s.recordLimits(t.Context())
	must(t, err)
	must(t, s.lift(t.Context(), rec))
	if left, err := w.lifts().all(); err != nil || len(left) > 0 {
		t.Errorf("records: %v, %v", left, err)
	}
}
