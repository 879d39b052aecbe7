// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"godwit.dev/godwit/api/v1alpha1"
)

func TestDowntime(t *testing.T) {
	at := func(ms int) *metav1.MicroTime {
		mt := metav1.NewMicroTime(testNow.Add(time.Duration(ms) * time.Millisecond))
		return &mt
	}
	status := func(frozen, dumped, started, restored *metav1.MicroTime) *v1alpha1.MigrationStatus {
		return &v1alpha1.MigrationStatus{
			Source: &v1alpha1.SourceStatus{SourceReport: v1alpha1.SourceReport{FrozenAt: frozen, DumpedAt: dumped}},
			Target: &v1alpha1.TargetStatus{TargetReport: v1alpha1.TargetReport{RestoreStartedAt: started, RestoredAt: restored}},
		}
	}
	kept := func(s *v1alpha1.MigrationStatus, committed *metav1.MicroTime) *v1alpha1.MigrationStatus {
		s.Handoff, s.Handover = v1alpha1.HandoffSameName, &v1alpha1.Handover{State: v1alpha1.HandoverCommitted, Time: *committed}
		return s
	}
	ms := func(n int) metav1.Duration { return metav1.Duration{Duration: time.Duration(n) * time.Millisecond} }
	for name, tc := range map[string]struct {
		status *v1alpha1.MigrationStatus
		want   *v1alpha1.DowntimeStatus
	}{
		"complete":               {status(at(0), at(500), at(600), at(1600)), &v1alpha1.DowntimeStatus{Total: ms(1600), FreezeAndDump: ms(500), Handover: ms(100), Restore: ms(1000)}},
		"target's clock is slow": {status(at(0), at(500), at(-2000), at(-1000)), &v1alpha1.DowntimeStatus{Total: ms(1500), FreezeAndDump: ms(500), Restore: ms(1000)}},
		"target's clock is fast": {status(at(0), at(500), at(5500), at(6500)), &v1alpha1.DowntimeStatus{Total: ms(6500), FreezeAndDump: ms(500), Handover: ms(5000), Restore: ms(1000)}},
		"keeps its name":         {kept(status(at(0), at(500), at(12600), at(13600)), at(600)), &v1alpha1.DowntimeStatus{Total: ms(13600), FreezeAndDump: ms(500), Handover: ms(100), Replace: ptr(ms(12000)), Restore: ms(1000)}},
		"keeps it, slow clock":   {kept(status(at(0), at(500), at(9600), at(10600)), at(-400)), &v1alpha1.DowntimeStatus{Total: ms(11500), FreezeAndDump: ms(500), Replace: ptr(ms(10000)), Restore: ms(1000)}},
		"not frozen":             {status(nil, at(500), at(600), at(1600)), nil},
		"not dumped":             {status(at(0), nil, at(600), at(1600)), nil},
		"not begun":              {status(at(0), at(500), nil, at(1600)), nil},
		"not restored":           {status(at(0), at(500), at(600), nil), nil},
		"no target":              {&v1alpha1.MigrationStatus{Source: &v1alpha1.SourceStatus{}}, nil},
		"nothing":                {&v1alpha1.MigrationStatus{}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			got := Downtime(tc.status)
			if (got == nil) != (tc.want == nil) || !equality.Semantic.DeepEqual(got, tc.want) {
				t.Errorf("Downtime = %+v, want %+v", got, tc.want)
			}
		})
	}
}

func TestLoadOf(t *testing.T) {
	dump := func(n int64) *v1alpha1.DumpStatus { return &v1alpha1.DumpStatus{Bytes: n + 1, MemoryBytes: n} }
	rounds := []v1alpha1.RoundStatus{{DumpStatus: *dump(100)}}
	r := v1alpha1.SourceReport{ResidentBytes: 1000, Containers: []v1alpha1.SourceContainerStatus{{Name: "a", FinalDump: dump(7)}, {Name: "b", FinalDump: dump(3)}}}
	want := Load{FinalBytes: 10, ResidentBytes: 1000, Containers: 2, Whole: true}
	if got := LoadOf(&r); got != want {
		t.Errorf("without rounds %+v, want %+v", got, want)
	}
	r.Convergence = &v1alpha1.ConvergenceStatus{BandwidthBytesPerSecond: 50, UnreadBytes: 20}
	r.Containers[0].Rounds, r.Containers[1].Rounds = rounds, rounds
	want.Bandwidth, want.UnreadBytes, want.Whole = 50, 20, false
	if got := LoadOf(&r); got != want {
		t.Errorf("with rounds %+v, want %+v", got, want)
	}
}

func TestBytesTransferred(t *testing.T) {
	dump := func(n int64) v1alpha1.DumpStatus { return v1alpha1.DumpStatus{Bytes: n, MemoryBytes: 1000} }
	final := dump(7)
	s := &v1alpha1.MigrationStatus{Source: &v1alpha1.SourceStatus{SourceReport: v1alpha1.SourceReport{Containers: []v1alpha1.SourceContainerStatus{
		{Name: "a", Rounds: []v1alpha1.RoundStatus{{DumpStatus: dump(100)}, {DumpStatus: dump(20)}}, FinalDump: &final},
		{Name: "b", Rounds: []v1alpha1.RoundStatus{{DumpStatus: dump(3)}}},
	}}}}
	if got := BytesTransferred(s); got != 130 {
		t.Errorf("BytesTransferred = %d", got)
	}
	if got := BytesTransferred(&v1alpha1.MigrationStatus{}); got != 0 {
		t.Errorf("BytesTransferred of nothing = %d", got)
	}
}

func TestEnteredAt(t *testing.T) {
	s := &v1alpha1.MigrationStatus{PhaseTransitionTimestamps: []v1alpha1.PhaseTransitionTimestamp{{Phase: pending, Time: metav1.NewMicroTime(testNow)}}}
	if !EnteredAt(s, pending).Equal(testNow) || !EnteredAt(s, failed).IsZero() {
		t.Errorf("EnteredAt = %s, %s", EnteredAt(s, pending), EnteredAt(s, failed))
	}
}
