// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"testing"
	"time"

	"k8s.io/utils/ptr"

	"godwit.dev/godwit/api/v1alpha1"
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
		{name: "has read it", after: 20 * time.Second, rounds: 1, placed: true, verified: 1, reads: true},
		{name: "is parked soon", after: 39 * time.Second, rounds: 1, placed: true, verified: 1, reads: true},
		{name: "is not parked", after: 40 * time.Second, rounds: 1, placed: true, verified: 1},
		{name: "another round", after: 50 * time.Second, rounds: 2, placed: true, verified: 1, reads: true},
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
