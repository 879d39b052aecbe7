// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"godwit.dev/godwit/api/v1alpha1"
)

func asked(r v1alpha1.ResolveRequest) func(*Observation) {
	return func(o *Observation) {
		if o.Migration.Annotations == nil {
			o.Migration.Annotations = map[string]string{}
		}
		o.Migration.Annotations[v1alpha1.AnnotationResolve] = string(r)
	}
}

func TestResolve(t *testing.T) {
	const (
		source, target           = v1alpha1.ResolveSource, v1alpha1.ResolveTarget
		forceSource, forceTarget = v1alpha1.ResolveForceSource, v1alpha1.ResolveForceTarget
		accepted, refused        = v1alpha1.ResolutionAccepted, v1alpha1.ResolutionRefused
	)
	restoring := withTarget(v1alpha1.TargetRestoring, 2)
	restored := withTarget(v1alpha1.TargetRestored, 2)
	for name, tc := range map[string]struct {
		o       Observation
		request v1alpha1.ResolveRequest
		outcome v1alpha1.ResolutionOutcome
		action  Action
		says    string
	}{
		"nonsense":                          {observed(switching, restoring, register(committed)), "Both", refused, Wait, `"Both" is none of`},
		"before the commit":                 {observed(switching, sourceState(v1alpha1.SourceDumped), withTarget(v1alpha1.TargetParked, 2)), source, refused, Wait, "cancel the migration instead"},
		"before the commit, by force":       {observed(preCopying, sourceState(v1alpha1.SourcePreCopying), withTarget(v1alpha1.TargetGated, 2)), forceTarget, refused, Wait, "cancel the migration instead"},
		"after the abort":                   {observed(rolling, sourceState(v1alpha1.SourceFrozen), restoring, register(aborted), targetDeleting), target, refused, Wait, "the source keeps the pod"},
		"after the target was confirmed":    {observed(completing, restored, register(committed), targetStarted, sourceDeleting), forceSource, refused, Wait, "the target was confirmed"},
		"source, all is well":               {observed(switching, restoring, register(committed), nodeFine), source, refused, Wait, "could run twice: the target pod is not deleted, and the target's agent has not reported"},
		"source, the node is silent":        {observed(switching, restoring, register(committed), nodeSilent), source, refused, Wait, "nobody has said"},
		"source, the pod is gone":           {observed(switching, restored, register(committed), nodeSilent, targetGone), source, refused, Wait, "has not reported that nothing is left"},
		"source, pod and tree are gone":     {observed(switching, restored, register(committed), nodeFine, targetGone, treeGone), source, accepted, Reclaim, ""},
		"source, tree gone, pod there":      {observed(switching, restored, register(committed), nodeFine, treeGone), source, accepted, Reclaim, ""},
		"source, tree lost, pod there":      {observed(switching, withTarget(v1alpha1.TargetRestoring, 2), register(committed), nodeFine, treeGone), source, accepted, Reclaim, ""},
		"source, it ran and the node went":  {observed(switching, restored, register(committed), targetStarted, outOfService), source, accepted, Reclaim, ""},
		"source, by force":                  {observed(switching, restored, register(committed), targetStarted, nodeSilent), forceSource, accepted, Reclaim, ""},
		"source is gone":                    {observed(switching, restored, register(committed), targetGone, treeGone, sourceGone), source, refused, Advance, "nothing is left there"},
		"source is being deleted, by force": {observed(switching, restored, register(committed), targetGone, treeGone, sourceDeleting), forceSource, refused, Wait, "nothing is left there"},
		"target, seen to run":               {observed(switching, restoring, register(committed), targetStarted, nodeSilent), target, accepted, Advance, ""},
		"target, not seen to run":           {observed(switching, restored, register(committed), nodeSilent), target, refused, Wait, "kubelet has not seen the target run"},
		"target, its pod is gone":           {observed(switching, restored, register(committed), targetGone), target, refused, Wait, "is gone or being deleted"},
		"target, its node is gone":          {observed(switching, restored, register(committed), targetStarted, nodeDeleted), target, refused, Wait, "Node n2 was deleted"},
		"target, by force":                  {observed(switching, restoring, register(committed), nodeSilent), forceTarget, accepted, Advance, ""},
	} {
		t.Run(name, func(t *testing.T) {
			asked(tc.request)(&tc.o)
			tc.o.RequestedBy = "kubectl-annotate"
			d := Decide(tc.o)
			r := d.Resolution
			if r == nil {
				t.Fatalf("not answered: %+v", d)
			}
			if r.Outcome != tc.outcome || d.Action != tc.action || !strings.Contains(r.Message, tc.says) {
				t.Errorf("%s %s: %+v, want %s, %s, saying %q", d.Action, d.Phase, r, tc.outcome, tc.action, tc.says)
			}
			if r.Request != tc.request || r.Forced != strings.HasPrefix(string(tc.request), "Force") || r.FieldManager != "kubectl-annotate" || r.Time.IsZero() {
				t.Errorf("the record is incomplete: %+v", r)
			}
			if handover(tc.o.Migration) == committed && r.Known == "" {
				t.Error("the record does not say what was known")
			}
			if tc.outcome == accepted && d.Action == Reclaim && (d.Failure.Reason != v1alpha1.ReasonResolvedToSource || d.Phase != rolling) {
				t.Errorf("the rollback is %s for %+v", d.Phase, d.Failure)
			}
			if tc.outcome == accepted && d.Action == Advance && d.Phase != completing {
				t.Errorf("enters %s", d.Phase)
			}

			// What was answered is not looked at again, whatever is known later.
			tc.o.Migration.Status.Resolution = r
			outOfService(&tc.o)
			if tc.o.Migration.Status.Target.State == v1alpha1.TargetRestored {
				if again := Decide(tc.o); again.Resolution != nil || again.Action == Reclaim {
					t.Errorf("applies again: %+v", again)
				}
			}
			// The same value is a new request once the old one was removed.
			r.Closed = true
			if Decide(tc.o).Resolution == nil {
				t.Error("a new request is not answered")
			}
		})
	}
}

func TestAFinishedMigrationAnswersNothing(t *testing.T) {
	o := observed(failed, register(aborted), asked(v1alpha1.ResolveForceTarget))
	if d := Decide(o); d.Resolution != nil || d.Action != Wait {
		t.Errorf("%+v", d)
	}
}

func TestALongRequestIsAnsweredOnce(t *testing.T) {
	o := observed(switching, withTarget(v1alpha1.TargetRestoring, 2), register(committed), asked(v1alpha1.ResolveRequest(strings.Repeat("é", 200))))
	o.Migration.Status.Resolution = Decide(o).Resolution
	if Decide(o).Resolution != nil {
		t.Error("answered again")
	}
}

func TestTargetLostIsThereOnlyWhenItIsDue(t *testing.T) {
	o := observed(switching, withTarget(v1alpha1.TargetRestoring, 2), register(committed), nodeFine)
	m := o.Migration
	look := func(at int) *metav1.Condition {
		now := testNow.Add(time.Duration(at) * time.Second)
		c := TargetLostCondition(m, Decide(o), now)
		if c != nil {
			meta.SetStatusCondition(&m.Status.Conditions, *c)
		}
		return c
	}
	if c := look(0); c != nil {
		t.Fatalf("a restore that goes well has %+v", c)
	}
	nodeSilent(&o)
	first := look(10)
	if first == nil || first.Status != metav1.ConditionTrue || first.Reason != v1alpha1.ReasonTargetNodeNotReady || !strings.Contains(first.Message, "kubectl migrate resolve m") {
		t.Fatalf("got %+v", first)
	}
	if again := look(20); *again != *first {
		t.Errorf("the same facts changed it from %+v to %+v", first, again)
	}
	nodeFine(&o)
	if c := look(30); c.Status != metav1.ConditionFalse || c.Reason != v1alpha1.ReasonTargetFound || c.LastTransitionTime.Equal(&first.LastTransitionTime) {
		t.Errorf("got %+v", c)
	}
	register(aborted)(&o)
	if c := look(40); c.Status != metav1.ConditionFalse || c.Reason != v1alpha1.ReasonTargetResolved {
		t.Errorf("got %+v", c)
	}
}
