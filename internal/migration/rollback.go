// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"strings"

	"godwit.dev/godwit/api/v1alpha1"
)

func decideRollback(o Observation) Decision {
	m := o.Migration
	f := rollbackFailure(m)
	if m.Status.Phase != v1alpha1.PhaseRollingBack {
		return Decision{Action: Advance, Phase: v1alpha1.PhaseRollingBack, Failure: f, Message: "rolling back: " + f.Message}
	}
	if d, ok := decideReturn(o, f); ok {
		return d
	}
	if o.Target.toBeRemoved() {
		return Decision{Action: DeleteTarget, Failure: f, Message: "rolling back: removing the target pod"}
	}
	s := m.Status.Source
	sourceDone := !o.Source.Exists || (s != nil && s.State == v1alpha1.SourceCleaned)
	switch {
	case !sourceDone:
		return Decision{Action: Wait, Failure: f, Message: "rolling back: the source pod is being let go on"}
	case o.Target.Exists:
		return Decision{Action: Wait, Failure: f, Message: "rolling back: the target pod is being removed"}
	}
	return finish(f)
}

// rollbackFailure is the reason for a rollback: that the source turned out to be
// lost, else the recorded one, else the register's.
func rollbackFailure(m *v1alpha1.Migration) *v1alpha1.Failure {
	if s := m.Status.Source; s != nil && s.Failure != nil && s.Failure.Reason == v1alpha1.ReasonProcessLost {
		return s.Failure
	}
	f := m.Status.Failure
	if f == nil {
		h := m.Status.Handover
		f = &v1alpha1.Failure{Reason: h.Reason, Message: h.Message}
		if f.Reason == "" {
			f.Reason = v1alpha1.ReasonCancelled
		}
	}
	// Taken back after kubelet had killed the source: the one thing a person
	// must hear, whatever made the target fail.
	if s := m.Status.Source; s != nil && s.Failure != nil && s.Failure.Reason == v1alpha1.ReasonSourceKilled && !strings.Contains(f.Message, s.Failure.Message) {
		f = f.DeepCopy()
		f.Message += "; " + s.Failure.Message
	}
	return f
}
