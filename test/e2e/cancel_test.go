// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"testing"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/test/harness"
)

// A migration can be cancelled in each phase before the commit, by annotation
// and by deletion; the source goes on. After the commit it completes. What
// becomes of a whole image set, TestSecretsDoNotStay looks at.
func TestCancel(t *testing.T) {
	s := begin(t)
	p := s.memhog("reluctant")
	gone := func(m *v1alpha1.Migration) {
		s.must(s.AwaitFor(s.ctx, scenarioTimeout, m, "the deleted migration to be gone", func(exists bool) (bool, error) { return !exists, nil }))
	}
	for _, c := range []struct {
		name string
		// held is the node whose agent stands still.
		held string
		// reached says that the moment to cancel has come.
		reached func(*v1alpha1.Migration) bool
		delete  bool
	}{
		{"preparing", p.pod.Spec.NodeName, harness.InPhase(v1alpha1.PhasePreparing), false},
		{"precopying", "", harness.InPhase(v1alpha1.PhasePreCopying), true},
		{"frozen", "", harness.SourceState(v1alpha1.SourceFrozen), false},
	} {
		s.step(c.name, func() {
			release := func() {}
			if c.held != "" {
				release = s.hold(c.held)
			}
			m := s.migration(c.name, p.pod.Name)
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
