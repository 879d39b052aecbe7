// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"regexp"
	"time"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"godwit.dev/godwit/api/v1alpha1"
)

// Conditions computes all condition types from the rest of the status. A
// condition whose status has not changed keeps its lastTransitionTime.
func Conditions(m *v1alpha1.Migration, now time.Time) []metav1.Condition {
	conditions := make([]metav1.Condition, 0, len(conditionRules))
	for _, rule := range conditionRules {
		status, reason, message := rule.of(m)
		c := metav1.Condition{
			Type:               rule.conditionType,
			Status:             status,
			Reason:             conditionReason(reason),
			Message:            Shorten(message, maxConditionMessage),
			ObservedGeneration: m.Generation,
			// The API keeps whole seconds.
			LastTransitionTime: metav1.NewTime(now.Truncate(time.Second)),
		}
		if old := meta.FindStatusCondition(m.Status.Conditions, c.Type); old != nil && old.Status == c.Status {
			c.LastTransitionTime = old.LastTransitionTime
		}
		conditions = append(conditions, c)
	}
	return conditions
}

// maxConditionMessage keeps a page of someone's log out of the object; the
// schema would take 32 KiB.
const maxConditionMessage = 4096

var validReason = regexp.MustCompile(`^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$`)

// conditionReason guards the status write against a report whose reason the
// schema of conditions would refuse: everything else in it would be lost too.
func conditionReason(reason string) string {
	if validReason.MatchString(reason) && len(reason) <= 1024 {
		return reason
	}
	return v1alpha1.ReasonAgentError
}

// Shorten cuts s to at most n bytes, between characters.
func Shorten(s string, n int) string {
	const ellipsis = "…"
	if len(s) <= n {
		return s
	}
	cut := n - len(ellipsis)
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + ellipsis
}

var conditionRules = []struct {
	conditionType string
	of            func(*v1alpha1.Migration) (status metav1.ConditionStatus, reason, message string)
}{
	{v1alpha1.ConditionEligible, eligible},
	{v1alpha1.ConditionTargetReady, targetReady},
	{v1alpha1.ConditionConverged, converged},
	{v1alpha1.ConditionHandedOver, handedOver},
	{v1alpha1.ConditionComplete, complete},
}

// TargetLostCondition is the condition TargetLost for what was found: nil for
// nothing wrong. It is absent until the target was lost once.
func TargetLostCondition(m *v1alpha1.Migration, d Decision, now time.Time) *metav1.Condition {
	old := meta.FindStatusCondition(m.Status.Conditions, v1alpha1.ConditionTargetLost)
	c := &metav1.Condition{Type: v1alpha1.ConditionTargetLost, ObservedGeneration: m.Generation,
		LastTransitionTime: metav1.NewTime(now.Truncate(time.Second))}
	switch {
	case d.Lost != nil:
		c.Status, c.Reason, c.Message = metav1.ConditionTrue, d.Lost.Reason, d.Message
	case old == nil:
		return nil
	case handover(m) == v1alpha1.HandoverCommitted && (m.Status.Resolution == nil || m.Status.Resolution.Outcome != v1alpha1.ResolutionAccepted):
		c.Status, c.Reason, c.Message = metav1.ConditionFalse, v1alpha1.ReasonTargetFound, "the target was heard of again"
	default:
		c.Status, c.Reason, c.Message = metav1.ConditionFalse, v1alpha1.ReasonTargetResolved, "it is decided which side goes on"
	}
	c.Message = Shorten(c.Message, maxConditionMessage)
	if old != nil && old.Status == c.Status {
		c.LastTransitionTime = old.LastTransitionTime
	}
	return c
}

func eligible(m *v1alpha1.Migration) (metav1.ConditionStatus, string, string) {
	s := m.Status.Source
	switch {
	case s != nil && len(s.Refusals) > 0:
		f := Refusal(s.Refusals)
		return metav1.ConditionFalse, f.Reason, f.Message
	case entered(m, v1alpha1.PhasePreCopying), m.Status.Phase == v1alpha1.PhaseSucceeded:
		return metav1.ConditionTrue, v1alpha1.ReasonPreflightPassed, "nothing forbids the move"
	case Finished(m.Status.Phase) && m.Status.Failure != nil:
		// Ended before the pre-copy: whatever ended it forbade the move.
		return metav1.ConditionFalse, m.Status.Failure.Reason, m.Status.Failure.Message
	}
	return notYet()
}

func targetReady(m *v1alpha1.Migration) (metav1.ConditionStatus, string, string) {
	t := m.Status.Target
	switch {
	case t == nil || t.PodName == "":
		return failedOr(m, metav1.ConditionFalse, notYet)
	case t.State == v1alpha1.TargetRestored || handover(m) == v1alpha1.HandoverCommitted && t.State == v1alpha1.TargetCleaned:
		return metav1.ConditionTrue, v1alpha1.ReasonRestored, "the pod runs on " + t.NodeName
	case t.Failure != nil:
		return metav1.ConditionFalse, t.Failure.Reason, t.Failure.Message
	case handover(m) == v1alpha1.HandoverAborted || Finished(m.Status.Phase):
		return failedOr(m, metav1.ConditionFalse, notYet)
	case t.State == v1alpha1.TargetParked || t.State == v1alpha1.TargetRestoring:
		return metav1.ConditionTrue, v1alpha1.ReasonParked, "the target pod on " + t.NodeName + " waits for its images"
	case t.NodeName == "":
		return metav1.ConditionFalse, v1alpha1.ReasonScheduling, "the target pod waits for a node"
	}
	return metav1.ConditionFalse, v1alpha1.ReasonGated, "the target pod is being brought up on " + t.NodeName
}

func converged(m *v1alpha1.Migration) (metav1.ConditionStatus, string, string) {
	s := m.Status.Source
	switch {
	case s == nil || s.State == "" || s.State == v1alpha1.SourceChecked || s.State == v1alpha1.SourceRefused:
		return failedOr(m, metav1.ConditionFalse, notYet)
	case s.State == v1alpha1.SourceStalled:
		return metav1.ConditionFalse, v1alpha1.ReasonStalled, convergenceMessage(s)
	case s.State == v1alpha1.SourcePreCopying:
		return failedOr(m, metav1.ConditionFalse, func() (metav1.ConditionStatus, string, string) {
			return metav1.ConditionFalse, v1alpha1.ReasonCopying, convergenceMessage(s)
		})
	case !entered(m, v1alpha1.PhaseSwitchingOver) && s.State != v1alpha1.SourceConverged:
		// Rolled back before it converged.
		return failedOr(m, metav1.ConditionFalse, notYet)
	}
	reason := v1alpha1.ReasonConverged
	if s.Convergence != nil && s.Convergence.Reason != "" {
		reason = s.Convergence.Reason
	}
	return metav1.ConditionTrue, reason, convergenceMessage(s)
}

func handedOver(m *v1alpha1.Migration) (metav1.ConditionStatus, string, string) {
	h := m.Status.Handover
	switch handover(m) {
	case v1alpha1.HandoverCommitted:
		return metav1.ConditionTrue, v1alpha1.ReasonCommitted, "the target owns the pod (" + h.By + ")"
	case v1alpha1.HandoverAborted:
		f := rollbackFailure(m)
		return metav1.ConditionFalse, f.Reason, "the source keeps the pod: " + f.Message
	}
	return failedOr(m, metav1.ConditionFalse, notYet)
}

func complete(m *v1alpha1.Migration) (metav1.ConditionStatus, string, string) {
	switch m.Status.Phase {
	case v1alpha1.PhaseSucceeded:
		if m.Spec.DryRun {
			return metav1.ConditionTrue, v1alpha1.ReasonDryRunPassed, m.Status.Message
		}
		return metav1.ConditionTrue, v1alpha1.ReasonSucceeded, m.Status.Message
	case v1alpha1.PhaseFailed, v1alpha1.PhaseCancelled:
		return failedOr(m, metav1.ConditionTrue, func() (metav1.ConditionStatus, string, string) {
			return metav1.ConditionTrue, string(m.Status.Phase), m.Status.Message
		})
	}
	return metav1.ConditionFalse, orNotYet(string(m.Status.Phase)), m.Status.Message
}

func entered(m *v1alpha1.Migration, p v1alpha1.MigrationPhase) bool {
	return !EnteredAt(&m.Status, p).IsZero()
}

func notYet() (metav1.ConditionStatus, string, string) {
	return metav1.ConditionUnknown, v1alpha1.ReasonNotYet, ""
}

// failedOr gives the migration's failure as the reason, with that status, or
// what otherwise says while there is none.
func failedOr(m *v1alpha1.Migration, status metav1.ConditionStatus, otherwise func() (metav1.ConditionStatus, string, string)) (metav1.ConditionStatus, string, string) {
	if f := m.Status.Failure; f != nil {
		return status, f.Reason, f.Message
	}
	return otherwise()
}

func orNotYet(s string) string {
	if s == "" {
		return v1alpha1.ReasonNotYet
	}
	return s
}
