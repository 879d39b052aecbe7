// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"godwit.dev/godwit/api/v1alpha1"
)

// interrupted says why a migration that has not committed cannot go on.
func interrupted(o Observation) *v1alpha1.Failure {
	m := o.Migration
	s, t := m.Status.Source, m.Status.Target
	fail := func(reason, format string, args ...any) *v1alpha1.Failure {
		return &v1alpha1.Failure{Reason: reason, Message: fmt.Sprintf(format, args...)}
	}
	began := m.Status.Phase == v1alpha1.PhasePreCopying || m.Status.Phase == v1alpha1.PhaseSwitchingOver
	switch {
	case CancelRequested(m):
		return fail(v1alpha1.ReasonCancelled, "cancelled by the user")
	case o.Now.After(Deadline(m)) && queueing(m):
		why := m.Status.Message
		if o.Owner.Unsettled != "" {
			why = o.Owner.Unsettled
		}
		return fail(v1alpha1.ReasonTimeout, "it could not begin within %s: %s", Deadline(m).Sub(m.CreationTimestamp.Time), why)
	case o.Now.After(Deadline(m)):
		if o.Owner.Unsettled != "" && !o.Owner.Released {
			return fail(v1alpha1.ReasonTimeout, "not done within spec.timeout (%s), since %s", Timeout(m), o.Owner.Unsettled)
		}
		return fail(v1alpha1.ReasonTimeout, "not done within spec.timeout (%s)", Timeout(m))
	case !o.Source.Exists:
		if m.Status.Phase == "" || m.Status.Phase == v1alpha1.PhasePending {
			return fail(v1alpha1.ReasonSourcePodNotFound, "there is no pod %q in this namespace", m.Spec.PodName)
		}
		return fail(v1alpha1.ReasonSourcePodGone, "the source pod is gone")
	case o.Source.Deleting:
		return fail(v1alpha1.ReasonSourcePodGone, "the source pod is being deleted")
	case o.Source.Phase != corev1.PodRunning:
		return fail(v1alpha1.ReasonSourcePodNotRunning, "the source pod is %s; only a running pod can be moved", o.Source.Phase)
	case s != nil && len(s.Refusals) > 0:
		return Refusal(s.Refusals)
	case s != nil && s.Failure != nil:
		return s.Failure
	case s != nil && s.State == v1alpha1.SourceStalled:
		if s.Convergence != nil && s.Convergence.Reason == ConvergeAboveBudget {
			return fail(v1alpha1.ReasonStalled, "the switchover would take longer than the pod's probes allow: %s", convergenceMessage(s))
		}
		return fail(v1alpha1.ReasonStalled, "pre-copy does not converge, and preCopy.onStall is %s: %s", m.Spec.PreCopy.OnStall, convergenceMessage(s))
	}
	if !began {
		switch {
		case o.Conflict != "":
			return fail(v1alpha1.ReasonConflictingMigration, "migration %q moves this pod already; wait for it or delete it", o.Conflict)
		case o.Blocked != nil && !waitsForNode(o):
			return o.Blocked
		}
		return nil
	}
	if f := ownerInterrupts(o); f != nil {
		return f
	}
	switch {
	case t != nil && t.Failure != nil:
		return t.Failure
	case t != nil && t.PodUID != "" && !o.Target.Exists:
		return fail(v1alpha1.ReasonTargetPodGone, "the target pod was deleted by someone else")
	case o.Target.Exists && o.Target.Deleting:
		return fail(v1alpha1.ReasonTargetPodGone, "the target pod is being deleted by someone else")
	case o.Target.Exists && o.Target.NodeName != "" && o.Target.NodeName == o.Source.NodeName:
		// Two nodes with the same hostname label: the affinity cannot tell them apart.
		return fail(v1alpha1.ReasonTargetNodeNotEligible, "the target pod was placed on the source's node %s; give each node its own %s label", o.Target.NodeName, corev1.LabelHostname)
	case o.Target.Exists && (o.Target.Phase == corev1.PodFailed || o.Target.Phase == corev1.PodSucceeded):
		return fail(v1alpha1.ReasonTargetPodFailed, "the target pod ended (%s) before it was restored", o.Target.Phase)
	}
	return nil
}

// DefaultTimeout is the API's default of spec.timeout.
const DefaultTimeout = 15 * time.Minute

// Timeout is spec.timeout, or its default.
func Timeout(m *v1alpha1.Migration) time.Duration {
	if m.Spec.Timeout == nil {
		return DefaultTimeout
	}
	return m.Spec.Timeout.Duration
}

// MaxQueued is how long a migration waits for others, or for a node, before it begins;
// or its own timeout, if that is longer.
const MaxQueued = time.Hour

// queueing says whether a migration has not begun yet.
func queueing(m *v1alpha1.Migration) bool {
	return m.Status.Phase == "" || m.Status.Phase == v1alpha1.PhasePending
}

// Deadline is when an uncommitted migration times out: spec.timeout counts from when
// it begins.
func Deadline(m *v1alpha1.Migration) time.Time {
	if queueing(m) {
		return m.CreationTimestamp.Add(max(Timeout(m), MaxQueued))
	}
	from := EnteredAt(&m.Status, v1alpha1.PhasePreparing)
	if from.IsZero() {
		from = m.CreationTimestamp.Time
	}
	return from.Add(Timeout(m))
}

// Refusal makes one failure of the preflight's refusals, which must not be
// empty: the first one's reason, and what all of them say.
func Refusal(refusals []v1alpha1.Failure) *v1alpha1.Failure {
	f := refusals[0]
	for _, other := range refusals[1:] {
		f.Message += "; also: " + other.Message
	}
	return &f
}
