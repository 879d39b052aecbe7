// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"godwit.dev/godwit/api/v1alpha1"
)

var validName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)

// wentThrough records the phases entered before the present one.
func wentThrough(phases ...v1alpha1.MigrationPhase) func(*Observation) {
	return func(o *Observation) {
		for _, p := range phases {
			o.Migration.Status.PhaseTransitionTimestamps = append(o.Migration.Status.PhaseTransitionTimestamps,
				v1alpha1.PhaseTransitionTimestamp{Phase: p, Time: metav1.NewMicroTime(testNow)})
		}
	}
}

func TestConditions(t *testing.T) {
	const (
		yes, no, unknown = metav1.ConditionTrue, metav1.ConditionFalse, metav1.ConditionUnknown
	)
	type c struct {
		status metav1.ConditionStatus
		reason string
	}
	notYet := c{unknown, v1alpha1.ReasonNotYet}
	unscheduled := func(o *Observation) { o.Migration.Status.Target.NodeName = "" }
	verdict := func(o *Observation) {
		o.Migration.Status.Source.Convergence = &v1alpha1.ConvergenceStatus{Reason: v1alpha1.ReasonWithinTarget, Message: "8Mi dirty"}
	}
	failedOn := func(f func(*v1alpha1.MigrationStatus)) func(*Observation) {
		return func(o *Observation) { f(&o.Migration.Status) }
	}
	for name, tc := range map[string]struct {
		o                                                      Observation
		eligible, targetReady, converged, handedOver, complete c
	}{
		"new":         {observed(""), notYet, notYet, notYet, notYet, c{no, v1alpha1.ReasonNotYet}},
		"preparing":   {observed(preparing), notYet, notYet, notYet, notYet, c{no, "Preparing"}},
		"pre-copying": {observed(preCopying, wentThrough(preCopying), sourceState(v1alpha1.SourcePreCopying)), c{yes, v1alpha1.ReasonPreflightPassed}, notYet, c{no, v1alpha1.ReasonCopying}, notYet, c{no, "PreCopying"}},
		"unscheduled": {observed(preCopying, wentThrough(preCopying), sourceState(v1alpha1.SourcePreCopying), withTarget("", 0), unscheduled),
			c{yes, v1alpha1.ReasonPreflightPassed}, c{no, v1alpha1.ReasonScheduling}, c{no, v1alpha1.ReasonCopying}, notYet, c{no, "PreCopying"}},
		"gated": {observed(preCopying, wentThrough(preCopying), sourceState(v1alpha1.SourceConverged), verdict, withTarget(v1alpha1.TargetGated, 2)),
			c{yes, v1alpha1.ReasonPreflightPassed}, c{no, v1alpha1.ReasonGated}, c{yes, v1alpha1.ReasonWithinTarget}, notYet, c{no, "PreCopying"}},
		"armed": {observed(switching, wentThrough(preCopying, switching), sourceState(v1alpha1.SourceFrozen), withTarget(v1alpha1.TargetParked, 2)),
			c{yes, v1alpha1.ReasonPreflightPassed}, c{yes, v1alpha1.ReasonParked}, c{yes, v1alpha1.ReasonConverged}, notYet, c{no, "SwitchingOver"}},
		"committed": {observed(switching, wentThrough(preCopying, switching), sourceState(v1alpha1.SourceDumped), withTarget(v1alpha1.TargetRestoring, 2), register(committed)),
			c{yes, v1alpha1.ReasonPreflightPassed}, c{yes, v1alpha1.ReasonParked}, c{yes, v1alpha1.ReasonConverged}, c{yes, v1alpha1.ReasonCommitted}, c{no, "SwitchingOver"}},
		"succeeded": {observed(succeeded, wentThrough(preCopying, switching, completing), sourceState(v1alpha1.SourceCleaned), withTarget(v1alpha1.TargetRestored, 2), register(committed)),
			c{yes, v1alpha1.ReasonPreflightPassed}, c{yes, v1alpha1.ReasonRestored}, c{yes, v1alpha1.ReasonConverged}, c{yes, v1alpha1.ReasonCommitted}, c{yes, v1alpha1.ReasonSucceeded}},
		"dry run": {observed(succeeded, sourceState(v1alpha1.SourceChecked), func(o *Observation) { o.Migration.Spec.DryRun = true }),
			c{yes, v1alpha1.ReasonPreflightPassed}, notYet, notYet, notYet, c{yes, v1alpha1.ReasonDryRunPassed}},
		"refused by the agent": {observed(failed, sourceState(v1alpha1.SourceRefused), failedWith(v1alpha1.ReasonIOUring), failedOn(func(s *v1alpha1.MigrationStatus) {
			s.Source.Refusals = []v1alpha1.Failure{{Reason: v1alpha1.ReasonIOUring, Message: "m"}}
		})), c{no, v1alpha1.ReasonIOUring}, c{no, v1alpha1.ReasonIOUring}, c{no, v1alpha1.ReasonIOUring}, c{no, v1alpha1.ReasonIOUring}, c{yes, v1alpha1.ReasonIOUring}},
		"refused by the controller": {observed(failed, failedWith(v1alpha1.ReasonOwnedPod)),
			c{no, v1alpha1.ReasonOwnedPod}, c{no, v1alpha1.ReasonOwnedPod}, c{no, v1alpha1.ReasonOwnedPod}, c{no, v1alpha1.ReasonOwnedPod}, c{yes, v1alpha1.ReasonOwnedPod}},
		"stalled": {observed(rolling, wentThrough(preCopying), sourceState(v1alpha1.SourceStalled), withTarget(v1alpha1.TargetGated, 2), register(aborted), failedWith(v1alpha1.ReasonStalled)),
			c{yes, v1alpha1.ReasonPreflightPassed}, c{no, v1alpha1.ReasonStalled}, c{no, v1alpha1.ReasonStalled}, c{no, v1alpha1.ReasonStalled}, c{no, "RollingBack"}},
		"cancelled in pre-copy": {observed(wasCancel, wentThrough(preCopying), sourceState(v1alpha1.SourceCleaned), withTarget(v1alpha1.TargetCleaned, 2), register(aborted), failedWith(v1alpha1.ReasonCancelled)),
			c{yes, v1alpha1.ReasonPreflightPassed}, c{no, v1alpha1.ReasonCancelled}, c{no, v1alpha1.ReasonCancelled}, c{no, v1alpha1.ReasonCancelled}, c{yes, v1alpha1.ReasonCancelled}},
		"the restore failed": {observed(rolling, wentThrough(preCopying, switching), sourceState(v1alpha1.SourceResumed), withTarget(v1alpha1.TargetReverted, 2), register(aborted), failedWith(v1alpha1.ReasonRestoreFailed)),
			c{yes, v1alpha1.ReasonPreflightPassed}, c{no, v1alpha1.ReasonRestoreFailed}, c{yes, v1alpha1.ReasonConverged}, c{no, v1alpha1.ReasonRestoreFailed}, c{no, "RollingBack"}},
	} {
		t.Run(name, func(t *testing.T) {
			conditions := Conditions(tc.o.Migration, testNow)
			if len(conditions) != 5 {
				t.Errorf("%d conditions", len(conditions))
			}
			for conditionType, want := range map[string]c{
				v1alpha1.ConditionEligible: tc.eligible, v1alpha1.ConditionTargetReady: tc.targetReady, v1alpha1.ConditionConverged: tc.converged,
				v1alpha1.ConditionHandedOver: tc.handedOver, v1alpha1.ConditionComplete: tc.complete,
			} {
				got := meta.FindStatusCondition(conditions, conditionType)
				if got == nil || got.Status != want.status || got.Reason != want.reason {
					t.Errorf("%s = %+v, want %+v", conditionType, got, want)
				}
			}
		})
	}
}

func TestTransitionTimes(t *testing.T) {
	m := observed(preparing).Migration
	m.Generation = 1
	m.Status.Conditions = Conditions(m, testNow)
	later := testNow.Add(time.Minute)
	same := Conditions(m, later)
	for _, c := range same {
		if !c.LastTransitionTime.Equal(&metav1.Time{Time: testNow}) || c.ObservedGeneration != 1 {
			t.Errorf("unchanged %s moved: %+v", c.Type, c)
		}
	}
	m.Status.Phase = preCopying
	wentThrough(preCopying)(&Observation{Migration: m})
	changed := Conditions(m, later)
	if c := meta.FindStatusCondition(changed, v1alpha1.ConditionEligible); !c.LastTransitionTime.Equal(&metav1.Time{Time: later}) {
		t.Errorf("Eligible = %+v", c)
	}
	if c := meta.FindStatusCondition(changed, v1alpha1.ConditionComplete); c.Reason != "PreCopying" || !c.LastTransitionTime.Equal(&metav1.Time{Time: testNow}) {
		t.Errorf("Complete has another reason, but the same status: %+v", c)
	}
}

// Agents report free text; a condition that the schema refuses would make the
// controller lose the whole write.
func TestConditionsOfOddReports(t *testing.T) {
	o := observed(rolling, withTarget(v1alpha1.TargetFailed, 0), func(o *Observation) {
		o.Migration.Status.Target.Failure = &v1alpha1.Failure{Reason: "it broke!", Message: strings.Repeat("ä", 40000)}
	})
	c := meta.FindStatusCondition(Conditions(o.Migration, testNow), v1alpha1.ConditionTargetReady)
	if c.Reason != v1alpha1.ReasonAgentError || len(c.Message) > maxConditionMessage || !strings.HasSuffix(c.Message, "ä…") {
		t.Errorf("reason %q, %d bytes", c.Reason, len(c.Message))
	}
}

func TestShorten(t *testing.T) {
	for _, tc := range []struct {
		s    string
		n    int
		want string
	}{{"abc", 3, "abc"}, {"abcdef", 5, "ab…"}, {"äöü", 5, "ä…"}, {"äöü", 6, "äöü"}, {"", 0, ""}} {
		if got := Shorten(tc.s, tc.n); got != tc.want {
			t.Errorf("Shorten(%q, %d) = %q, want %q", tc.s, tc.n, got, tc.want)
		}
	}
}
