// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"godwit.dev/godwit/api/v1alpha1"
)

var testNow = time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)

// observed builds an Observation: a migration in that phase that goes well,
// then changed.
func observed(phase v1alpha1.MigrationPhase, changes ...func(*Observation)) Observation {
	m := &v1alpha1.Migration{}
	m.Name, m.UID = "m", "uid"
	m.CreationTimestamp = metav1.NewTime(testNow.Add(-time.Minute))
	m.Spec = v1alpha1.MigrationSpec{PodName: "redis", Timeout: &metav1.Duration{Duration: 15 * time.Minute}}
	m.Status.Phase = phase
	m.Status.Source = &v1alpha1.SourceStatus{PodRef: v1alpha1.PodRef{NodeName: "n1", PodName: "redis", PodUID: "s"}}
	o := Observation{Now: testNow, Migration: m,
		Source: PodFacts{Exists: true, UID: "s", NodeName: "n1", Phase: corev1.PodRunning, Started: true}}
	for _, c := range changes {
		c(&o)
	}
	return o
}

func sourceState(s v1alpha1.SourceState) func(*Observation) {
	return func(o *Observation) { o.Migration.Status.Source.State = s }
}

func round2(n int32) func(*Observation) {
	return func(o *Observation) { o.Migration.Status.Source.Round = &n }
}

func withTarget(state v1alpha1.TargetState, verified int32) func(*Observation) {
	return func(o *Observation) {
		o.Target = PodFacts{Exists: true, UID: "t", NodeName: "n2", Phase: corev1.PodPending}
		o.Migration.Status.Target = &v1alpha1.TargetStatus{PodRef: v1alpha1.PodRef{NodeName: "n2", PodName: "redis-m", PodUID: "t"},
			TargetReport: v1alpha1.TargetReport{State: state, VerifiedRounds: verified}}
	}
}

func register(s v1alpha1.HandoverState) func(*Observation) {
	return func(o *Observation) {
		o.Migration.Status.Handover = &v1alpha1.Handover{State: s, By: "someone", Reason: v1alpha1.ReasonSwitchoverTimeout, Message: "frozen too long"}
	}
}

func nodeDeleted(o *Observation) { o.TargetNode = TargetNode{Known: true} }
func nodeAnew(o *Observation) {
	recordNode(o)
	o.TargetNode = TargetNode{Known: true, Exists: true, UID: "other"}
}
func outOfService(o *Observation) {
	recordNode(o)
	o.TargetNode = TargetNode{Known: true, Exists: true, UID: "node", OutOfService: true}
}
func nodeFine(o *Observation) {
	recordNode(o)
	o.TargetNode = TargetNode{Known: true, Exists: true, UID: "node"}
}
func nodeSilent(o *Observation) {
	recordNode(o)
	o.TargetNode = TargetNode{Known: true, Exists: true, UID: "node", NotReady: "NodeStatusUnknown", NotReadySince: testNow.Add(-time.Minute)}
}
func recordNode(o *Observation) { o.Migration.Status.Target.NodeUID = "node" }
func processLost(o *Observation) {
	o.Migration.Status.Source.Failure = &v1alpha1.Failure{Reason: v1alpha1.ReasonProcessLost, Message: "gone"}
}
func treeGone(o *Observation) {
	at := metav1.NewMicroTime(testNow)
	o.Migration.Status.Target.TreeGoneAt = &at
}
func targetStarted(o *Observation)  { o.Target.Started, o.Target.Phase = true, corev1.PodRunning }
func sourceGone(o *Observation)     { o.Source = PodFacts{} }
func targetGone(o *Observation)     { o.Target = PodFacts{} }
func sourceDeleting(o *Observation) { o.Source.Deleting = true }
func targetDeleting(o *Observation) { o.Target.Deleting = true }
func cancelled(o *Observation) {
	o.Migration.Annotations = map[string]string{v1alpha1.AnnotationCancel: "true"}
}
func deleted(o *Observation) { o.Migration.DeletionTimestamp = &metav1.Time{Time: testNow} }
func late(o *Observation)    { o.Now = testNow.Add(time.Hour) }
func failedWith(reason string) func(*Observation) {
	return func(o *Observation) {
		o.Migration.Status.Failure = &v1alpha1.Failure{Reason: reason, Message: "why"}
	}
}

const (
	pending    = v1alpha1.PhasePending
	preparing  = v1alpha1.PhasePreparing
	preCopying = v1alpha1.PhasePreCopying
	switching  = v1alpha1.PhaseSwitchingOver
	completing = v1alpha1.PhaseCompleting
	rolling    = v1alpha1.PhaseRollingBack
	succeeded  = v1alpha1.PhaseSucceeded
	failed     = v1alpha1.PhaseFailed
	wasCancel  = v1alpha1.PhaseCancelled
	committed  = v1alpha1.HandoverCommitted
	aborted    = v1alpha1.HandoverAborted
)

func TestDecide(t *testing.T) {
	for name, tc := range map[string]struct {
		o      Observation
		action Action
		phase  v1alpha1.MigrationPhase
		reason string
		says   string
	}{
		"new":                     {observed(""), Advance, pending, "", ""},
		"pending":                 {observed(pending), Advance, preparing, "", ""},
		"preflight runs":          {observed(preparing), Wait, "", "", "checks"},
		"preflight passed":        {observed(preparing, sourceState(v1alpha1.SourceChecked)), Advance, preCopying, "", ""},
		"dry run passed":          {observed(preparing, sourceState(v1alpha1.SourceChecked), func(o *Observation) { o.Migration.Spec.DryRun = true }), Advance, succeeded, "", "dry run"},
		"no target pod yet":       {observed(preCopying, sourceState(v1alpha1.SourceChecked)), CreateTarget, "", "", ""},
		"target unschedulable":    {observed(preCopying, withTarget("", 0), func(o *Observation) { o.Target.Unschedulable = "0/2 nodes" }), Wait, "", "", "0/2 nodes"},
		"target comes up":         {observed(preCopying, sourceState(v1alpha1.SourceConverged), round2(2), withTarget(v1alpha1.TargetGated, 2)), Wait, "", "", "brought up"},
		"rounds run":              {observed(preCopying, sourceState(v1alpha1.SourcePreCopying), round2(2), withTarget(v1alpha1.TargetParked, 2)), Wait, "", "", "2 rounds done"},
		"target behind":           {observed(preCopying, sourceState(v1alpha1.SourceConverged), round2(2), withTarget(v1alpha1.TargetParked, 1)), Wait, "", "", "the target reads"},
		"ready":                   {observed(preCopying, sourceState(v1alpha1.SourceConverged), round2(2), withTarget(v1alpha1.TargetParked, 2)), Advance, switching, "", ""},
		"ready without rounds":    {observed(preCopying, sourceState(v1alpha1.SourceConverged), withTarget(v1alpha1.TargetParked, 0)), Advance, switching, "", ""},
		"armed":                   {observed(switching, sourceState(v1alpha1.SourceConverged), withTarget(v1alpha1.TargetParked, 2)), Wait, "", "", "about to be frozen"},
		"frozen":                  {observed(switching, sourceState(v1alpha1.SourceFrozen), withTarget(v1alpha1.TargetParked, 2)), Wait, "", "", "is frozen"},
		"dumped":                  {observed(switching, sourceState(v1alpha1.SourceDumped), withTarget(v1alpha1.TargetParked, 2)), Wait, "", "", "verifies"},
		"committed":               {observed(switching, sourceState(v1alpha1.SourceDumped), withTarget(v1alpha1.TargetRestoring, 2), register(committed)), Wait, "", "", "restores"},
		"restored, not seen":      {observed(switching, withTarget(v1alpha1.TargetRestored, 2), register(committed)), Wait, "", "", "restores"},
		"seen, not reported":      {observed(switching, withTarget(v1alpha1.TargetRestoring, 2), register(committed), targetStarted), Wait, "", "", "restores"},
		"confirmed":               {observed(switching, withTarget(v1alpha1.TargetRestored, 2), register(committed), targetStarted), Advance, completing, "", ""},
		"source is there":         {observed(completing, withTarget(v1alpha1.TargetRestored, 2), register(committed), targetStarted), DeleteSource, "", "", ""},
		"source goes":             {observed(completing, withTarget(v1alpha1.TargetRestored, 2), register(committed), targetStarted, sourceDeleting), Wait, "", "", "being removed"},
		"images are there":        {observed(completing, sourceState(v1alpha1.SourceKilled), withTarget(v1alpha1.TargetRestored, 2), register(committed), sourceGone), Wait, "", "", "images"},
		"all done":                {observed(completing, sourceState(v1alpha1.SourceCleaned), withTarget(v1alpha1.TargetRestored, 2), register(committed), sourceGone), Advance, succeeded, "", "n2"},
		"succeeded":               {observed(succeeded, register(committed)), Wait, "", "", ""},
		"target gone after all":   {observed(switching, withTarget(v1alpha1.TargetRestored, 2), register(committed), targetGone), Wait, "", "", "a person must choose"},
		"target gone, not run":    {observed(switching, withTarget(v1alpha1.TargetRestoring, 2), register(committed), targetGone), Wait, "", "", "takes the commit back when it finds that it restored nothing"},
		"target's node silent":    {observed(switching, withTarget(v1alpha1.TargetRestoring, 2), register(committed), nodeSilent), Wait, "", "", "node n2 is not Ready since 2030-01-01T11:59:00Z (NodeStatusUnknown)"},
		"node silent, had run":    {observed(switching, withTarget(v1alpha1.TargetRestored, 2), register(committed), targetStarted, nodeSilent), Wait, "", "", "a person must choose"},
		"node deleted":            {observed(switching, withTarget(v1alpha1.TargetRestoring, 2), register(committed), nodeDeleted), Reclaim, rolling, v1alpha1.ReasonTargetNodeLost, "Node n2 was deleted"},
		"node made anew":          {observed(switching, withTarget(v1alpha1.TargetRestoring, 2), register(committed), nodeAnew), Reclaim, rolling, v1alpha1.ReasonTargetNodeLost, "made anew"},
		"node out of service":     {observed(switching, withTarget(v1alpha1.TargetRestoring, 2), register(committed), outOfService), Reclaim, rolling, v1alpha1.ReasonTargetNodeLost, "out-of-service"},
		"node gone, pod gone":     {observed(switching, withTarget(v1alpha1.TargetRestoring, 2), register(committed), nodeDeleted, targetGone), Reclaim, rolling, v1alpha1.ReasonTargetNodeLost, "target pod redis-m is gone"},
		"node gone, it had run":   {observed(switching, withTarget(v1alpha1.TargetRestored, 2), register(committed), nodeDeleted), Wait, "", "", "a person must choose"},
		"node gone, was started":  {observed(switching, withTarget(v1alpha1.TargetRestoring, 2), register(committed), targetStarted, outOfService), Wait, "", "", "a person must choose"},
		"node gone, no source":    {observed(switching, withTarget(v1alpha1.TargetRestoring, 2), register(committed), nodeDeleted, sourceGone), Wait, "", "", "target is lost"},
		"node gone, completing":   {observed(completing, withTarget(v1alpha1.TargetRestored, 2), register(committed), nodeDeleted), DeleteSource, "", "", ""},
		"node gone, no commit":    {observed(switching, sourceState(v1alpha1.SourceDumped), withTarget(v1alpha1.TargetParked, 2), nodeDeleted), Wait, "", "", "verifies"},
		"process lost":            {observed(rolling, sourceState(v1alpha1.SourceCleaned), register(aborted), failedWith(v1alpha1.ReasonTargetNodeLost), processLost), Advance, failed, v1alpha1.ReasonProcessLost, ""},
		"process lost, cancelled": {observed(rolling, sourceState(v1alpha1.SourceCleaned), register(aborted), failedWith(v1alpha1.ReasonCancelled), processLost), Advance, failed, v1alpha1.ReasonProcessLost, ""},
		"both gone":               {observed(switching, withTarget(v1alpha1.TargetRestored, 2), register(committed), targetGone, sourceGone), Advance, failed, v1alpha1.ReasonTargetPodGone, ""},
		"and stays so":            {observed(failed, withTarget(v1alpha1.TargetRestored, 2), register(committed), targetGone, sourceGone), Wait, "", "", ""},
		"commit beats cancel":     {observed(switching, withTarget(v1alpha1.TargetRestoring, 2), register(committed), cancelled), Wait, "", "", "restores"},
		"commit beats timeout":    {observed(switching, withTarget(v1alpha1.TargetRestoring, 2), register(committed), late), Wait, "", "", "restores"},
		"commit beats deletion":   {observed(completing, withTarget(v1alpha1.TargetRestored, 2), register(committed), deleted), DeleteSource, "", "", ""},
		"aborted by an agent":     {observed(switching, withTarget(v1alpha1.TargetParked, 2), register(aborted)), Advance, rolling, v1alpha1.ReasonSwitchoverTimeout, "frozen too long"},
		"target is there":         {observed(rolling, withTarget(v1alpha1.TargetParked, 2), register(aborted)), DeleteTarget, "", v1alpha1.ReasonSwitchoverTimeout, ""},
		"target goes":             {observed(rolling, sourceState(v1alpha1.SourceCleaned), withTarget(v1alpha1.TargetParked, 2), register(aborted), targetDeleting), Wait, "", v1alpha1.ReasonSwitchoverTimeout, "target pod is being removed"},
		"source not resumed":      {observed(rolling, sourceState(v1alpha1.SourceFrozen), withTarget(v1alpha1.TargetParked, 2), register(aborted), targetGone), Wait, "", v1alpha1.ReasonSwitchoverTimeout, "let go on"},
		"source not cleaned":      {observed(rolling, sourceState(v1alpha1.SourceResumed), register(aborted)), Wait, "", v1alpha1.ReasonSwitchoverTimeout, "let go on"},
		"rolled back":             {observed(rolling, sourceState(v1alpha1.SourceCleaned), register(aborted)), Advance, failed, v1alpha1.ReasonSwitchoverTimeout, ""},
		"rolled back, no source":  {observed(rolling, sourceGone, register(aborted)), Advance, failed, v1alpha1.ReasonSwitchoverTimeout, ""},
		"cancelled":               {observed(rolling, sourceState(v1alpha1.SourceCleaned), register(aborted), failedWith(v1alpha1.ReasonCancelled)), Advance, wasCancel, v1alpha1.ReasonCancelled, ""},
		"abort was lost":          {observed(rolling, failedWith(v1alpha1.ReasonStalled)), Abort, rolling, v1alpha1.ReasonStalled, ""},
		"nothing was recorded":    {observed(rolling), Abort, rolling, v1alpha1.ReasonCancelled, ""},
		"failed stays failed":     {observed(failed, cancelled, late), Wait, "", "", ""},
		"aborted stays failed":    {observed(failed, register(aborted)), Wait, "", "", ""},
		"a phase from the future": {observed("Teleporting"), Wait, "", "", "unknown phase"},
	} {
		t.Run(name, func(t *testing.T) {
			d := Decide(tc.o)
			reason := ""
			if d.Failure != nil {
				reason = d.Failure.Reason
			}
			if d.Action != tc.action || d.Phase != tc.phase || reason != tc.reason || !strings.Contains(d.Message, tc.says) {
				t.Errorf("Decide = %+v (failure %+v), want %s %s %s, saying %q", d, d.Failure, tc.action, tc.phase, tc.reason, tc.says)
			}
		})
	}
}

func TestWhatInterrupts(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*Observation)
		reason string
		// began: only looked at once something was begun; before: only before.
		began, before bool
	}{
		"cancel":         {cancelled, v1alpha1.ReasonCancelled, false, false},
		"deletion":       {deleted, v1alpha1.ReasonCancelled, false, false},
		"deadline":       {late, v1alpha1.ReasonTimeout, false, false},
		"source gone":    {sourceGone, v1alpha1.ReasonSourcePodGone, false, false},
		"source deleted": {sourceDeleting, v1alpha1.ReasonSourcePodGone, false, false},
		"source ended":   {func(o *Observation) { o.Source.Phase = corev1.PodSucceeded }, v1alpha1.ReasonSourcePodNotRunning, false, false},
		"refusal": {func(o *Observation) {
			o.Migration.Status.Source.Refusals = []v1alpha1.Failure{{Reason: v1alpha1.ReasonIOUring}}
		}, v1alpha1.ReasonIOUring, false, false},
		"source fails": {func(o *Observation) {
			o.Migration.Status.Source.Failure = &v1alpha1.Failure{Reason: v1alpha1.ReasonPreDumpFailed}
		}, v1alpha1.ReasonPreDumpFailed, false, false},
		"stall":    {sourceState(v1alpha1.SourceStalled), v1alpha1.ReasonStalled, false, false},
		"conflict": {func(o *Observation) { o.Conflict = "other" }, v1alpha1.ReasonConflictingMigration, false, true},
		"blocked":  {func(o *Observation) { o.Blocked = &v1alpha1.Failure{Reason: v1alpha1.ReasonOwnedPod} }, v1alpha1.ReasonOwnedPod, false, true},
		"target fails": {func(o *Observation) {
			o.Migration.Status.Target.Failure = &v1alpha1.Failure{Reason: v1alpha1.ReasonGateFailed}
		}, v1alpha1.ReasonGateFailed, true, false},
		"target gone":       {targetGone, v1alpha1.ReasonTargetPodGone, true, false},
		"target deleted":    {targetDeleting, v1alpha1.ReasonTargetPodGone, true, false},
		"target ended":      {func(o *Observation) { o.Target.Phase = corev1.PodFailed }, v1alpha1.ReasonTargetPodFailed, true, false},
		"on the same node":  {func(o *Observation) { o.Target.NodeName = "n1" }, v1alpha1.ReasonTargetNodeNotEligible, true, false},
		"nothing":           {func(*Observation) {}, "", false, false},
		"unscheduled is ok": {func(o *Observation) { o.Target.NodeName, o.Source.NodeName = "", "" }, "", false, false},
	} {
		for _, phase := range []v1alpha1.MigrationPhase{preparing, preCopying, switching} {
			t.Run(name+"/"+string(phase), func(t *testing.T) {
				began := phase != preparing
				o := observed(phase, withTarget(v1alpha1.TargetGated, 0), tc.change)
				d := Decide(o)
				switch expected := tc.reason != "" && (began || !tc.began) && (!began || !tc.before); {
				case !expected:
					if d.Failure != nil || d.Action == Abort {
						t.Errorf("Decide = %+v %+v", d, d.Failure)
					}
				case d.Failure == nil || d.Failure.Reason != tc.reason:
					t.Errorf("Decide = %+v, failure %+v, want %s", d, d.Failure, tc.reason)
				case began && (d.Action != Abort || d.Phase != rolling):
					t.Errorf("Decide = %+v, want an abort", d)
				case !began && (d.Action != Advance || !Finished(d.Phase)):
					t.Errorf("Decide = %+v, want the end", d)
				}
			})
		}
	}
}

func TestMissingSourceBeforeItWasRecorded(t *testing.T) {
	for _, phase := range []v1alpha1.MigrationPhase{"", pending} {
		if d := Decide(observed(phase, sourceGone)); d.Failure == nil || d.Failure.Reason != v1alpha1.ReasonSourcePodNotFound || d.Phase != failed {
			t.Errorf("phase %q: %+v", phase, d)
		}
	}
}

func TestWaitingEndsAtTheDeadline(t *testing.T) {
	d := Decide(observed(preparing))
	if want := 14*time.Minute + time.Millisecond; d.RequeueAfter != want {
		t.Errorf("RequeueAfter = %s, want %s", d.RequeueAfter, want)
	}
	o := observed(preparing)
	o.Migration.Spec.Timeout = nil // an object from before the default
	if d := Decide(o); d.RequeueAfter != 14*time.Minute+time.Millisecond {
		t.Errorf("RequeueAfter = %s", d.RequeueAfter)
	}
	// Exactly at the deadline there is still time; right after there is none.
	o = observed(preparing)
	o.Now = Deadline(o.Migration)
	if d := Decide(o); d.Failure != nil || d.RequeueAfter <= 0 {
		t.Errorf("at the deadline: %+v", d)
	}
	o.Now = o.Now.Add(d.RequeueAfter - 14*time.Minute)
	if d := Decide(o); d.Failure == nil {
		t.Errorf("after the deadline: %+v", d)
	}
}

func TestRefusalSaysAll(t *testing.T) {
	f := Refusal([]v1alpha1.Failure{{Reason: "A", Message: "do a", Container: "c"}, {Reason: "B", Message: "do b"}, {Reason: "C", Message: "do c"}})
	if *f != (v1alpha1.Failure{Reason: "A", Message: "do a; also: do b; also: do c", Container: "c"}) {
		t.Errorf("Refusal = %+v", f)
	}
}
