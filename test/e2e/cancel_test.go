// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"testing"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/test/harness"
)

// A migration can be cancelled in each phase before the commit, by annotation
// and by deletion; the source goes on. After the commit it completes.
func TestCancel(t *testing.T) {
	s := begin(t)
	p := s.memhog("reluctant")
	other := "n1"
	if p.pod.Spec.NodeName == other {
		other = "n2"
	}

	gone := func(m *v1alpha1.Migration) {
		s.must(s.AwaitFor(s.ctx, scenarioTimeout, m, "the deleted migration to be gone", func(exists bool) (bool, error) { return !exists, nil }))
	}
	for _, c := range []struct {
		name string
		// held is the node whose agent stands still from the moment that
		// holdAt says, nil for from before the start.
		held   string
		holdAt func(*v1alpha1.Migration) bool
		// reached says that the moment to cancel has come.
		reached func(*v1alpha1.Migration) bool
		delete  bool
	}{
		{"preparing", p.pod.Spec.NodeName, nil, harness.InPhase(v1alpha1.PhasePreparing), false},
		{"precopying", "", nil, harness.InPhase(v1alpha1.PhasePreCopying), true},
		{"frozen", "", nil, harness.SourceState(v1alpha1.SourceFrozen), false},
		{"dumped", other, harness.TargetState(v1alpha1.TargetParked), harness.SourceState(v1alpha1.SourceDumped), true},
	} {
		s.step(c.name, func() {
			release := func() {}
			if c.held != "" && c.holdAt == nil {
				release = s.hold(c.held)
			}
			m := s.migration(c.name, p.pod.Name)
			if c.holdAt != nil {
				s.await(m, "the moment to hold", c.holdAt)
				release = s.hold(c.held)
			}
			s.await(m, "the moment to cancel", c.reached)
			if c.delete {
				s.must(s.Delete(s.ctx, m))
			} else {
				s.must(s.Cancel(s.ctx, m))
				s.await(m, "the rollback", func(m *v1alpha1.Migration) bool {
					return harness.InPhase(v1alpha1.PhaseRollingBack)(m) || harness.InPhase(v1alpha1.PhaseCancelled)(m)
				})
			}
			release()
			if c.delete {
				gone(m)
			} else {
				s.finish(m, v1alpha1.PhaseCancelled)
			}
			s.stayed(m, p.pod)
			p.unharmed()
		})
	}

	s.step("committed", func() {
		m := s.migration("committed", p.pod.Name)
		s.await(m, "the commit", harness.Committed)
		s.must(s.Cancel(s.ctx, m))
		p.continues(s.arrived(m))
	})
	s.step("waiting", func() {
		m := harness.Migration(s.namespace, "waiting", p.pod.Name)
		m.Annotations = map[string]string{v1alpha1.AnnotationCancel: "true"}
		s.must(s.Create(s.ctx, m))
		s.finish(m, v1alpha1.PhaseCancelled)
		s.stayed(m, p.pod)
		p.unharmed()
	})
}
