// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"godwit.dev/godwit/api/v1alpha1"
)

// decideQueued says what a migration waits for that has not begun; nil for nothing.
func decideQueued(o Observation) *Decision {
	q := o.Queued
	switch {
	case o.DrainOver:
		d := finish(&v1alpha1.Failure{Reason: v1alpha1.ReasonCancelled, Message: "node " + sourceNode(o.Migration) + " is in use again before the migration has begun; the pod stays"})
		return &d
	case waitsForNode(o):
		q = &Queueing{Limit: v1alpha1.ReasonNoNodeYet, Message: "waits for a node: " + o.Blocked.Message}
	case q == nil || q.Admitted:
		return nil
	}
	d := wait(o, q.Message)
	d.Queued = q
	return &d
}

// waitsForNode: a node that is drained has to be rid of the pod, and nodes come and
// go. Anybody else wants to know at once that there is none.
func waitsForNode(o Observation) bool {
	return o.Migration.Spec.Cause == v1alpha1.CauseDrain && queueing(o.Migration) &&
		o.Blocked != nil && o.Blocked.Reason == v1alpha1.ReasonNoEligibleNode
}

// QueuedCondition is the condition Queued for what was decided. It is absent until
// the migration had to wait once.
func QueuedCondition(m *v1alpha1.Migration, d Decision, now time.Time) *metav1.Condition {
	old := meta.FindStatusCondition(m.Status.Conditions, v1alpha1.ConditionQueued)
	c := &metav1.Condition{Type: v1alpha1.ConditionQueued, Status: metav1.ConditionTrue, ObservedGeneration: m.Generation,
		LastTransitionTime: metav1.NewTime(now.Truncate(time.Second))}
	switch {
	case d.Queued != nil:
		c.Reason, c.Message = d.Queued.Limit, Shorten(d.Queued.Message, maxConditionMessage)
	case old == nil:
		return nil
	default:
		c.Status, c.Reason = metav1.ConditionFalse, v1alpha1.ReasonAdmitted
	}
	if old != nil && old.Status == c.Status {
		c.LastTransitionTime = old.LastTransitionTime
	}
	return c
}
