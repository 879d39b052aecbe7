// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"testing"

	corev1 "k8s.io/api/core/v1"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/test/harness"
)

// Every part of Godwit may be restarted at any moment, as an upgrade does it, the
// pod with its agent deleted and another made: the migration either succeeds, or
// fails and leaves the source running. The process is one and the same all along.
// test/chaos kills them, at many more moments.
func TestRestarts(t *testing.T) {
	s := begin(t)
	p := s.memhog("steady")
	source := func(m *v1alpha1.Migration) (*corev1.Pod, error) { return s.AgentOn(s.ctx, m.Status.Source.NodeName) }
	target := func(m *v1alpha1.Migration) (*corev1.Pod, error) { return s.AgentOn(s.ctx, m.Status.Target.NodeName) }
	manager := func(*v1alpha1.Migration) (*corev1.Pod, error) { return s.Manager(s.ctx) }
	for _, c := range []struct {
		name string
		when func(*v1alpha1.Migration) bool
		who  func(*v1alpha1.Migration) (*corev1.Pod, error)
		// must succeed, since nothing has been lost by the restart.
		must bool
	}{
		{"source-frozen", harness.SourceState(v1alpha1.SourceFrozen), source, false},
		// The parked create waits for the agent's successor: arrived checks that
		// kubelet did not have to repeat it.
		{"target-parked", harness.TargetState(v1alpha1.TargetParked), target, true},
		{"manager-committed", harness.Committed, manager, true},
	} {
		s.step(c.name, func() {
			s.must(s.AwaitReady(s.ctx))
			m := s.migration(c.name, p.pod.Name)
			s.await(m, "the moment", c.when)
			part, err := c.who(m)
			s.must(err)
			s.must(s.Delete(s.ctx, part))
			s.must(s.AwaitFinished(s.ctx, m))
			if m.Status.Phase == v1alpha1.PhaseSucceeded {
				p.continues(s.arrived(m))
				return
			}
			s.Logf("rolled back: %s", m.Status.Message)
			if c.must || m.Status.Phase != v1alpha1.PhaseFailed {
				s.Errorf("it ended as %s\n%s", m.Status.Phase, harness.Summary(m))
			}
			s.stayed(m, p.pod)
			p.unharmed()
		})
	}
}
