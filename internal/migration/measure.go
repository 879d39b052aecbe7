// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"godwit.dev/godwit/api/v1alpha1"
)

// Downtime is the time in which no process of the pod ran, from the agents'
// timestamps; nil while one of them is missing. The parts on one node are
// measured by that node's clock. The hand-over spans both nodes' clocks; when
// they disagree by more than it took it would be negative, and counts as 0.
func Downtime(status *v1alpha1.MigrationStatus) *v1alpha1.DowntimeStatus {
	s, t := status.Source, status.Target
	if s == nil || t == nil || s.FrozenAt == nil || s.DumpedAt == nil || t.RestoreStartedAt == nil || t.RestoredAt == nil {
		return nil
	}
	d := downtimeOf(between(s.FrozenAt, s.DumpedAt), between(s.DumpedAt, t.RestoreStartedAt), between(t.RestoreStartedAt, t.RestoredAt))
	if h := status.Handover; h != nil && status.Handoff == v1alpha1.HandoffSameName {
		// Both ends are of the target's clock.
		replace := between(&h.Time, t.RestoreStartedAt)
		d = downtimeOf(d.FreezeAndDump.Duration, between(s.DumpedAt, &h.Time), d.Restore.Duration)
		d.Replace = &metav1.Duration{Duration: replace}
		d.Total.Duration += replace
	}
	if c := s.Convergence; c != nil && c.PredictedDowntime != nil && c.PredictedDowntime.Duration > 0 {
		d.Predicted = c.PredictedDowntime
	}
	return &d
}

// LoadOf is what the downtime of a switchover was made of.
func LoadOf(s *v1alpha1.SourceReport) Load {
	l := Load{ResidentBytes: s.ResidentBytes, Containers: len(s.Containers), Whole: true}
	if c := s.Convergence; c != nil {
		l.Bandwidth, l.UnreadBytes = c.BandwidthBytesPerSecond, c.UnreadBytes
	}
	for i := range s.Containers {
		c := &s.Containers[i]
		l.Whole = l.Whole && len(c.Rounds) == 0
		if c.FinalDump != nil {
			l.FinalBytes += c.FinalDump.MemoryBytes
		}
	}
	return l
}

func downtimeOf(dump, handover, restore time.Duration) v1alpha1.DowntimeStatus {
	return v1alpha1.DowntimeStatus{
		Total:         metav1.Duration{Duration: dump + handover + restore},
		FreezeAndDump: metav1.Duration{Duration: dump},
		Handover:      metav1.Duration{Duration: handover},
		Restore:       metav1.Duration{Duration: restore},
	}
}

func between(from, to *metav1.MicroTime) time.Duration {
	return max(0, to.Sub(from.Time))
}

// BytesTransferred is what went through the volume: all rounds and the final
// dump of every container.
func BytesTransferred(status *v1alpha1.MigrationStatus) int64 {
	if status.Source == nil {
		return 0
	}
	var sum int64
	for i := range status.Source.Containers {
		c := &status.Source.Containers[i]
		for j := range c.Rounds {
			sum += c.Rounds[j].Bytes
		}
		if c.FinalDump != nil {
			sum += c.FinalDump.Bytes
		}
	}
	return sum
}

// EnteredAt is when the migration entered a phase; zero when it never did.
func EnteredAt(status *v1alpha1.MigrationStatus, phase v1alpha1.MigrationPhase) time.Time {
	for _, t := range status.PhaseTransitionTimestamps {
		if t.Phase == phase {
			return t.Time.Time
		}
	}
	return time.Time{}
}
