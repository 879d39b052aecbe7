// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/test/harness"
)

// A pod dirties all of its memory between two rounds. By default the migration is
// given up, and says what was measured; with onStall: Throttle the pod is slowed
// down until it converges, and is as fast as before when it has arrived.
func TestStall(t *testing.T) {
	s := begin(t)
	p := s.memhog("busy", "SIZE_MIB=64", "DIRTY_MIB_PER_SECOND=400", "PATTERN=uniform")
	before, err := s.look(p.pod).Read(s.ctx, "cpu.max")
	s.must(err)
	stall := func(policy v1alpha1.OnStallPolicy, target time.Duration) func(*v1alpha1.MigrationSpec) {
		return func(spec *v1alpha1.MigrationSpec) {
			spec.PreCopy.OnStall = policy
			spec.PreCopy.TargetDowntime = &metav1.Duration{Duration: target}
		}
	}
	// predicted is the downtime that a migration which is given up has predicted.
	predicted := func(name string) (*v1alpha1.Migration, *v1alpha1.ConvergenceStatus) {
		m := s.migration(name, p.pod.Name, stall(v1alpha1.OnStallAbort, time.Millisecond))
		s.finish(m, v1alpha1.PhaseFailed)
		c := m.Status.Source.Convergence
		if c == nil || c.PredictedDowntime == nil {
			s.Fatalf("nothing was predicted\n%s", harness.Summary(m))
		}
		return m, c
	}
	// With all of its memory dirty, and with none.
	var busy, idle time.Duration
	s.step("given up", func() {
		m, c := predicted("busy")
		if f := m.Status.Failure; f == nil || f.Reason != v1alpha1.ReasonStalled ||
			!strings.Contains(f.Message, "/s were dirtied and ") || !strings.Contains(f.Message, "/s copied in the last round") {
			s.Errorf("failure %+v", m.Status.Failure)
		}
		if c.DirtyBytesPerSecond == 0 || c.BandwidthBytesPerSecond == 0 {
			s.Errorf("convergence %+v\n%s", c, harness.Summary(m))
		}
		s.Logf("%s", c.Message)
		busy = c.PredictedDowntime.Duration
		s.stayed(m, p.pod)
		p.unharmed()
		s.must(harness.MemhogAt(p.pod).Order(s.ctx, "/dirty?mibPerSecond=0"))
		_, c = predicted("idle")
		idle = c.PredictedDowntime.Duration
		s.must(harness.MemhogAt(p.pod).Order(s.ctx, "/dirty?mibPerSecond=400"))
		if busy <= idle {
			s.Fatalf("predicted %s with its memory dirty, %s without", busy, idle)
		}
	})
	s.step("throttled", func() {
		// The volume may be three times as fast by now, or as slow: what all of the CPU time
		// dirties is above the target then, and what the last step leaves is below.
		m := s.migration("throttle", p.pod.Name, stall(v1alpha1.OnStallThrottle, idle+(busy-idle)*3/10))
		pod := s.arrived(m)
		c := m.Status.Source.Convergence
		// It would not have been armed without having converged; what is shown may be of
		// the last round, which an armed source makes for a shorter freeze.
		if c == nil || c.CPUPercent == nil || *c.CPUPercent >= 100 {
			s.Errorf("convergence %+v\n%s", c, harness.Summary(m))
		} else {
			s.Logf("with %d %% of its CPU time: %s", *c.CPUPercent, c.Message)
		}
		p.continues(pod)
		after, err := s.look(pod).Read(s.ctx, "cpu.max")
		s.must(err)
		if after != before {
			s.Errorf("the limit of its CPU time is %q, and was %q", after, before)
		}
		s.nothingLeft(m)
	})
}
