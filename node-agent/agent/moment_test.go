// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"testing"
	"time"

	"k8s.io/utils/ptr"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/migration"
)

// While the target reads rounds, and for a while after it has read them all, another one
// would only be read later.
func TestTheTargetReads(t *testing.T) {
	begun := time.Now()
	after := begun
	s := &sourceSession{sessionBase: sessionBase{Agent: &Agent{Config: Config{
		Now: func() time.Time { return after }, Timeouts: Timeouts{Park: time.Minute},
	}}}}
	for _, tc := range []struct {
		name     string
		after    time.Duration
		rounds   int32
		placed   bool
		verified int32
		state    v1alpha1.TargetState
		reads    bool
		parked   time.Duration
	}{
		{name: "no target yet", rounds: 1},
		{name: "placed", after: time.Second, rounds: 1, placed: true, reads: true},
		{name: "gated", after: 10 * time.Second, rounds: 1, placed: true, state: v1alpha1.TargetGated, reads: true},
		{name: "gated, and has read it", after: 20 * time.Second, rounds: 1, placed: true, verified: 1, state: v1alpha1.TargetGated},
		{name: "is let go", after: 21 * time.Second, rounds: 1, placed: true, verified: 1, state: v1alpha1.TargetReleased, reads: true},
		{name: "is parked soon", after: 39 * time.Second, rounds: 1, placed: true, verified: 1, state: v1alpha1.TargetReleased, reads: true},
		{name: "is not parked", after: 40 * time.Second, rounds: 1, placed: true, verified: 1, state: v1alpha1.TargetReleased},
		{name: "another round", after: 50 * time.Second, rounds: 2, placed: true, verified: 1, state: v1alpha1.TargetReleased, reads: true},
		{name: "has read that", after: 60 * time.Second, rounds: 2, placed: true, verified: 2, state: v1alpha1.TargetParked, reads: true},
		{name: "waits for its controller", after: 85 * time.Second, rounds: 2, placed: true, verified: 2, state: v1alpha1.TargetParked, parked: 25 * time.Second},
	} {
		after = begun.Add(tc.after)
		s.report.Round = ptr.To(tc.rounds)
		target := &v1alpha1.TargetStatus{TargetReport: v1alpha1.TargetReport{State: tc.state, VerifiedRounds: tc.verified}}
		if tc.placed {
			target.NodeName = "n2"
		} else {
			target = nil
		}
		s.watch.seeTarget(target, s.rounds(), s.Now())
		if got := s.targetReads(target); got != tc.reads {
			t.Errorf("%s: reads = %t", tc.name, got)
		}
		if got := s.watch.parked(s.Now()); got != tc.parked {
			t.Errorf("%s: parked for %s, want %s", tc.name, got, tc.parked)
		}
	}
}

// What the target reads in a second is known of a round that it had nothing to do before.
func TestWhatTheTargetReadsInASecond(t *testing.T) {
	begun := time.Now()
	for _, tc := range []struct {
		name string
		// published and verified are when, in seconds, each round was.
		published, verified []int
		want                int64
	}{
		{name: "its pod had to be made first", published: []int{0}, verified: []int{30}},
		{name: "one alone", published: []int{0, 40}, verified: []int{30, 44}, want: 25},
		{name: "while it read another", published: []int{0, 20}, verified: []int{30, 44}},
		{name: "two at once", published: []int{0, 20}, verified: []int{44, 44}},
	} {
		var w dirtyWatch
		at := func(seconds int) time.Time { return begun.Add(time.Duration(seconds) * time.Second) }
		for now := range 60 {
			var rounds, verified int32
			for i := range tc.published {
				if tc.published[i] <= now {
					rounds++
					w.published, w.lastBytes = at(tc.published[i]), 100
				}
				if tc.verified[i] <= now {
					verified++
				}
			}
			w.seeTarget(&v1alpha1.TargetStatus{TargetReport: v1alpha1.TargetReport{VerifiedRounds: verified}}, rounds, at(now))
		}
		if w.readRate != tc.want {
			t.Errorf("%s: %d bytes per second, want %d", tc.name, w.readRate, tc.want)
		}
	}
}

// For a third of its time the target's create waits for rounds, and for another one after
// the first only when that fits into half of what is left.
func TestWhatTheCreateWaitsFor(t *testing.T) {
	begun := time.Now()
	dirty := func(mib int64) migration.PreCopy {
		// 100 MiB/s: with what a node is taken for that has learned nothing, 250 ms and 13 ms
		// for each MiB until the commit.
		return migration.PreCopy{DirtyBytes: mib << 20, Rounds: []migration.RoundSample{{Bytes: 400 << 20, Duration: 4 * time.Second}}}
	}
	for _, tc := range []struct {
		name      string
		armed     bool
		spent     time.Duration
		rounds    int32 // since it was armed
		took      time.Duration
		dirtyMiB  int64
		isHurried bool
	}{
		{name: "not armed", took: time.Hour},
		{name: "just armed", armed: true, took: time.Hour, dirtyMiB: 10000},
		{name: "armed for long", armed: true, spent: 21 * time.Second, isHurried: true},
		{name: "a short round", armed: true, spent: 10 * time.Second, rounds: 1, took: 5 * time.Second, dirtyMiB: 100},
		{name: "a long round", armed: true, spent: 10 * time.Second, rounds: 1, took: 24 * time.Second, dirtyMiB: 100, isHurried: true},
		{name: "a long dump", armed: true, spent: 10 * time.Second, rounds: 1, took: 5 * time.Second, dirtyMiB: 1600, isHurried: true},
	} {
		s := &sourceSession{sessionBase: sessionBase{Agent: &Agent{Config: Config{
			Now: func() time.Time { return begun.Add(tc.spent) }, Timeouts: Timeouts{Park: time.Minute},
		}}}}
		s.report.Round = ptr.To(2 + tc.rounds)
		s.watch.armedRounds, s.watch.roundTook = 2, tc.took
		if tc.armed {
			s.watch.armedAt = begun
		}
		if got := s.hurried(dirty(tc.dirtyMiB)); got != tc.isHurried {
			t.Errorf("%s: hurried = %t", tc.name, got)
		}
	}
}

// The pod is not frozen while the target prepares its restore, but it is not kept waiting
// by one that does not say so.
func TestTheTargetPreparesBeforeTheFreeze(t *testing.T) {
	begun := time.Now()
	at := func(after time.Duration) func() time.Time { return func() time.Time { return begun.Add(after) } }
	m := &v1alpha1.Migration{}
	for _, tc := range []struct {
		name        string
		park, after time.Duration
		target      *v1alpha1.TargetStatus
		placeholder bool
		want        bool
	}{
		{name: "prepares", park: time.Minute, after: prepareTimeout - time.Millisecond, target: &v1alpha1.TargetStatus{}, want: true},
		{name: "has prepared", park: time.Minute, target: &v1alpha1.TargetStatus{TargetReport: v1alpha1.TargetReport{PreparedAt: microTime(begun)}}},
		{name: "says nothing", park: time.Minute, after: prepareTimeout, target: &v1alpha1.TargetStatus{}},
		{name: "says nothing, and does not wait for long", park: 10 * time.Second, after: time.Second, target: &v1alpha1.TargetStatus{}},
		{name: "no target", park: time.Minute},
		{name: "is made when the source is gone", park: time.Minute, target: &v1alpha1.TargetStatus{}, placeholder: true},
	} {
		s := &sourceSession{sessionBase: sessionBase{Agent: &Agent{Config: Config{Timeouts: Timeouts{Park: tc.park}}}}}
		m := m.DeepCopy()
		m.Status.Target = tc.target
		if tc.placeholder {
			m.Status.Target.PodUID = "there"
			m.Status.Placeholder = &v1alpha1.PodRef{PodUID: "there"}
		}
		s.Now = at(0)
		s.preparing(m)
		s.Now = at(tc.after)
		if got := s.preparing(m); got != tc.want {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
}
