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
	p := s.memhog("busy", "SIZE_MIB=128", "DIRTY_MIB_PER_SECOND=400", "PATTERN=uniform")
	before, err := s.look(p.pod).Read(s.ctx, "cpu.max")
	s.must(err)
	stall := func(policy v1alpha1.OnStallPolicy, target time.Duration) func(*v1alpha1.MigrationSpec) {
		return func(spec *v1alpha1.MigrationSpec) {
			spec.PreCopy.OnStall = policy
			spec.PreCopy.TargetDowntime = &metav1.Duration{Duration: target}
		}
	}
	// With all of its memory dirty, as with none of it copied before.
	var downtime time.Duration
	s.step("given up", func() {
		m := s.migration("abort", p.pod.Name, stall(v1alpha1.OnStallAbort, 100*time.Millisecond))
		s.finish(m, v1alpha1.PhaseFailed)
		c := m.Status.Source.Convergence
		if f := m.Status.Failure; f == nil || f.Reason != v1alpha1.ReasonStalled ||
			!strings.Contains(f.Message, "/s were dirtied and ") || !strings.Contains(f.Message, "/s copied in the last round") {
			s.Errorf("failure %+v", m.Status.Failure)
		}
		if c == nil || c.DirtyBytesPerSecond == 0 || c.BandwidthBytesPerSecond == 0 {
			s.Fatalf("convergence %+v\n%s", c, harness.Summary(m))
		}
		s.Logf("%s", c.Message)
		downtime = c.PredictedDowntime.Duration
		s.stayed(m, p.pod)
		p.unharmed()
	})
	s.step("throttled", func() {
		m := s.migration("throttle", p.pod.Name, stall(v1alpha1.OnStallThrottle, downtime*6/10))
		pod := s.arrived(m)
		c := m.Status.Source.Convergence
		if c == nil || c.Verdict != v1alpha1.VerdictSwitch || c.CPUPercent == nil || *c.CPUPercent >= 100 {
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
