// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"godwit.dev/godwit/api/v1alpha1"
)

// keepsName is a Migration of pod db-1 in a phase and a state of the register.
func keepsName(phase v1alpha1.MigrationPhase, h v1alpha1.HandoverState) *v1alpha1.Migration {
	m := &v1alpha1.Migration{ObjectMeta: metav1.ObjectMeta{Name: "m", Namespace: "ns", UID: "uid"}, Spec: v1alpha1.MigrationSpec{PodName: "db-1"}}
	m.Status = v1alpha1.MigrationStatus{Phase: phase, Handoff: v1alpha1.HandoffSameName,
		Owner:       &v1alpha1.OwnerStatus{Kind: KindStatefulSet, Name: "db", UID: "set", Revision: "r1"},
		Source:      &v1alpha1.SourceStatus{PodRef: v1alpha1.PodRef{PodName: "db-1", PodUID: "source", NodeName: "n1"}},
		Target:      &v1alpha1.TargetStatus{PodRef: v1alpha1.PodRef{PodName: "db-1-mxxxx", PodUID: "placeholder", NodeName: "n2"}},
		Placeholder: &v1alpha1.PodRef{PodName: "db-1-mxxxx", PodUID: "placeholder", NodeName: "n2"},
	}
	if h != "" {
		m.Status.Handover = &v1alpha1.Handover{State: h, By: "target/n2"}
	}
	return m
}

func TestDecisionsForPodsThatKeepTheirNames(t *testing.T) {
	source := PodFacts{Exists: true, UID: "source", NodeName: "n1", Phase: corev1.PodRunning}
	leaving := source
	leaving.Deleting = true
	placeholder := PodFacts{Exists: true, UID: "placeholder", NodeName: "n2"}
	target := PodFacts{Exists: true, UID: "target", NodeName: "n2", Phase: corev1.PodPending}
	ran := target
	ran.Phase, ran.Started = corev1.PodRunning, true
	set := OwnerFacts{Kind: KindStatefulSet, Name: "db"}
	for name, c := range map[string]struct {
		phase  v1alpha1.MigrationPhase
		change func(*Observation)
		want   Action
		enters v1alpha1.MigrationPhase
		lost   string
	}{
		"committed":               {v1alpha1.PhaseSwitchingOver, nil, Advance, v1alpha1.PhaseReplacing, ""},
		"its node is gone":        {v1alpha1.PhaseSwitchingOver, func(o *Observation) { o.TargetNode = TargetNode{Known: true} }, Reclaim, v1alpha1.PhaseRollingBack, ""},
		"its node says nothing":   {v1alpha1.PhaseSwitchingOver, func(o *Observation) { o.TargetNode.NotReady = "Unknown" }, Wait, "", v1alpha1.ReasonTargetNodeNotReady},
		"its set is gone":         {v1alpha1.PhaseSwitchingOver, func(o *Observation) { o.Owner.Gone = true }, Reclaim, v1alpha1.PhaseRollingBack, ""},
		"its set is rolled out":   {v1alpha1.PhaseSwitchingOver, func(o *Observation) { o.Owner.Superseded = true }, Reclaim, v1alpha1.PhaseRollingBack, ""},
		"its set is busy":         {v1alpha1.PhaseSwitchingOver, func(o *Observation) { o.Owner.Unsettled = "busy" }, Reclaim, v1alpha1.PhaseRollingBack, ""},
		"somebody removes it":     {v1alpha1.PhaseSwitchingOver, func(o *Observation) { o.Source, o.Owner.Gone = leaving, true }, Advance, v1alpha1.PhaseReplacing, ""},
		"cancelled too late":      {v1alpha1.PhaseReplacing, func(o *Observation) { o.Migration.Annotations = map[string]string{v1alpha1.AnnotationCancel: "true"} }, DeleteSource, "", ""},
		"given up":                {v1alpha1.PhaseReplacing, nil, DeleteSource, "", ""},
		"being removed":           {v1alpha1.PhaseReplacing, func(o *Observation) { o.Source = leaving }, Wait, "", ""},
		"removed":                 {v1alpha1.PhaseReplacing, func(o *Observation) { o.Source = PodFacts{} }, Wait, "", ""},
		"there again":             {v1alpha1.PhaseReplacing, func(o *Observation) { o.Source, o.Target = PodFacts{}, target }, DeletePlaceholder, "", ""},
		"started afresh":          {v1alpha1.PhaseReplacing, func(o *Observation) { o.Source, o.Usurped = PodFacts{}, true }, Wait, "", v1alpha1.ReasonReplacementNotSteered},
		"node gone meanwhile":     {v1alpha1.PhaseReplacing, func(o *Observation) { o.Source, o.TargetNode = PodFacts{}, TargetNode{Known: true} }, Wait, "", v1alpha1.ReasonTargetNodeLost},
		"seen to run, not said":   {v1alpha1.PhaseReplacing, func(o *Observation) { o.Source, o.Placeholder, o.Target = PodFacts{}, PodFacts{}, ran }, Wait, "", ""},
		"said, not seen":          {v1alpha1.PhaseReplacing, restoredIn(target), Wait, "", ""},
		"restored":                {v1alpha1.PhaseReplacing, restoredIn(ran), Advance, v1alpha1.PhaseCompleting, ""},
		"ran and lost":            {v1alpha1.PhaseReplacing, func(o *Observation) { restoredIn(ran)(o); o.Migration.Status.Target.TreeGoneAt = &metav1.MicroTime{} }, Wait, "", v1alpha1.ReasonTargetPodGone},
		"completing":              {v1alpha1.PhaseCompleting, func(o *Observation) { restoredIn(ran)(o); o.Placeholder = placeholder }, DropPlaceholder, "", ""},
		"a person wants it back":  {v1alpha1.PhaseReplacing, resolve(v1alpha1.ResolveForceSource), DeleteSource, "", ""},
		"a person gives up":       {v1alpha1.PhaseReplacing, func(o *Observation) { o.Source = PodFacts{}; resolve(v1alpha1.ResolveForceTarget)(o) }, Advance, v1alpha1.PhaseCompleting, ""},
		"a person is not forcing": {v1alpha1.PhaseReplacing, func(o *Observation) { o.Source = PodFacts{}; resolve(v1alpha1.ResolveTarget)(o) }, Wait, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			o := Observation{Now: simStart, Migration: keepsName(c.phase, v1alpha1.HandoverCommitted), Source: source, Owner: set,
				Placeholder: placeholder, TargetNode: TargetNode{Known: true, Exists: true}}
			if c.change != nil {
				c.change(&o)
			}
			d := Decide(o)
			lost := ""
			if d.Lost != nil {
				lost = d.Lost.Reason
			}
			if d.Action != c.want || d.Phase != c.enters || lost != c.lost || d.Message == "" {
				t.Errorf("%+v, lost %q", d, lost)
			}
		})
	}
}

func restoredIn(target PodFacts) func(*Observation) {
	return func(o *Observation) {
		o.Source, o.Placeholder, o.Target = PodFacts{}, PodFacts{}, target
		o.Migration.Status.Target.PodUID, o.Migration.Status.Target.State = "target", v1alpha1.TargetRestored
	}
}

func resolve(r v1alpha1.ResolveRequest) func(*Observation) {
	return func(o *Observation) {
		o.Migration.Annotations = map[string]string{v1alpha1.AnnotationResolve: string(r)}
	}
}

func TestArmingAPodThatKeepsItsName(t *testing.T) {
	m := keepsName(v1alpha1.PhasePreCopying, "")
	round := int32(2)
	m.CreationTimestamp = metav1.NewTime(simStart)
	m.Status.Source.State, m.Status.Source.Round = v1alpha1.SourceConverged, &round
	m.Status.Target.State, m.Status.Target.VerifiedRounds = v1alpha1.TargetParked, 2
	o := Observation{Now: simStart, Migration: m, Owner: OwnerFacts{Kind: KindStatefulSet, Name: "db"},
		Source: PodFacts{Exists: true, UID: "source", NodeName: "n1", Phase: corev1.PodRunning}, Target: PodFacts{Exists: true, UID: "placeholder", NodeName: "n2"}}
	if d := Decide(o); d.Action != Arm || d.Phase != v1alpha1.PhaseSwitchingOver {
		t.Errorf("%+v", d)
	}
	o.Owner.Unsettled = "busy"
	if d := Decide(o); d.Action != Wait || !strings.Contains(d.Message, "busy") {
		t.Errorf("%+v", d)
	}
	o.Owner.Unsettled, o.Target = "", PodFacts{}
	m.Status.Target, m.Status.Placeholder = nil, nil
	m.Status.Source.State = v1alpha1.SourcePreCopying
	if d := Decide(o); d.Action != CreateTarget {
		t.Errorf("no placeholder while the pod runs: %+v", d)
	}
}

func TestSourceThatGivesItsNameUp(t *testing.T) {
	o := SourceObservation{Phase: v1alpha1.PhaseReplacing, Handover: v1alpha1.HandoverCommitted, Frozen: true}
	o.Report.State = v1alpha1.SourceDumped
	for _, c := range []struct {
		change func()
		want   SourceAction
	}{
		{func() {}, SourceTellPeers},
		{func() { o.PeersTold = true }, SourceIdle},
		{func() { o.PodGone = true }, SourceKill},
		{func() { o.Report.State, o.Frozen = v1alpha1.SourceKilled, false }, SourceIdle},
		{func() { o.Phase = v1alpha1.PhaseCompleting }, SourceClean},
	} {
		c.change()
		if got := DecideSource(o); got != c.want {
			t.Errorf("%+v: %s, want %s", o, got, c.want)
		}
	}
}

func TestTargetThatKeepsItsName(t *testing.T) {
	began := &metav1.MicroTime{Time: simStart}
	for name, c := range map[string]struct {
		change func(*TargetObservation)
		want   TargetAction
	}{
		"the source is there":           {func(o *TargetObservation) { o.Phase, o.Placeholder, o.Parked = v1alpha1.PhaseSwitchingOver, true, true }, TargetIdle},
		"the placeholder":               {func(o *TargetObservation) { o.Placeholder, o.Parked = true, true }, TargetIdle},
		"gated":                         {func(o *TargetObservation) { o.GateRunning = true }, TargetOpenGate},
		"parked":                        {func(o *TargetObservation) { o.Parked = true }, TargetRestore},
		"under way":                     {func(o *TargetObservation) { o.Restoring, o.RestoreBegun = true, true }, TargetIdle},
		"failed":                        {func(o *TargetObservation) { o.RestoreFailed, o.RestoreBegun = true, true }, TargetDiscard},
		"failed, and nothing is left":   {func(o *TargetObservation) { o.RestoreFailed, o.RestoreBegun, o.TreeGone = true, true, true }, TargetRetry},
		"published, and nothing came":   {func(o *TargetObservation) { o.RestoreFailed, o.TreeGone, o.Report.RestoreStartedAt = true, true, began }, TargetRetry},
		"not begun, and its pod is out": {func(o *TargetObservation) { o.RestoreFailed, o.PodGone = true, true }, TargetRestore},
		"ran, and is lost":              {func(o *TargetObservation) { o.Lost, o.RestoreBegun, o.TreeGone = true, true, true }, TargetReportGone},
		"in another boot":               {func(o *TargetObservation) { o.Rebooted = true }, TargetReportGone},
		"stands still":                  {func(o *TargetObservation) { o.StandStill, o.RestoreBegun = true, true }, TargetLetGo},
		"restored":                      {func(o *TargetObservation) { o.Restored, o.RestoreBegun = true, true }, TargetReport},
		"said so, and it is gone": {func(o *TargetObservation) {
			o.Report.State, o.PodGone, o.TreeGone = v1alpha1.TargetRestored, true, true
		}, TargetReportGone},
		"confirmed": {func(o *TargetObservation) {
			o.Phase, o.RestoreFailed, o.RestoreBegun = v1alpha1.PhaseCompleting, true, true
		}, TargetIdle},
	} {
		t.Run(name, func(t *testing.T) {
			o := TargetObservation{Phase: v1alpha1.PhaseReplacing, Handover: v1alpha1.HandoverCommitted, SameName: true}
			c.change(&o)
			if got := DecideTarget(o); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}

func TestSteeringPodsThatKeepTheirNames(t *testing.T) {
	for name, c := range map[string]struct {
		phase  v1alpha1.MigrationPhase
		h      v1alpha1.HandoverState
		change func(*SteerObservation)
		want   SteerVerdict
	}{
		"before the freeze": {v1alpha1.PhasePreCopying, "", nil, SteerPass},
		"rehearsed":         {v1alpha1.PhasePreCopying, "", func(o *SteerObservation) { o.DryRun = true }, SteerTake},
		"rehearsed, not to be": {v1alpha1.PhasePreCopying, "", func(o *SteerObservation) {
			o.DryRun = true
			o.Pod.Annotations = map[string]string{v1alpha1.AnnotationRehearsal: "plain"}
		}, SteerPass},
		"frozen":                    {v1alpha1.PhaseSwitchingOver, "", nil, SteerHold},
		"committed":                 {v1alpha1.PhaseSwitchingOver, v1alpha1.HandoverCommitted, nil, SteerHold},
		"given up":                  {v1alpha1.PhaseReplacing, v1alpha1.HandoverCommitted, nil, SteerTake},
		"another name":              {v1alpha1.PhaseReplacing, v1alpha1.HandoverCommitted, func(o *SteerObservation) { o.Pod.Name = "db-0" }, SteerPass},
		"another set":               {v1alpha1.PhaseReplacing, v1alpha1.HandoverCommitted, func(o *SteerObservation) { o.Pod.OwnerReferences[0].UID = "other" }, SteerPass},
		"restored into":             {v1alpha1.PhaseReplacing, v1alpha1.HandoverCommitted, func(o *SteerObservation) { o.Migration.Status.Target.RestoreStartedAt = &metav1.MicroTime{} }, SteerHold},
		"no placeholder":            {v1alpha1.PhaseReplacing, v1alpha1.HandoverCommitted, func(o *SteerObservation) { o.Target = nil }, SteerTake},
		"no placeholder, other one": {v1alpha1.PhaseReplacing, v1alpha1.HandoverCommitted, func(o *SteerObservation) { o.Target = nil; o.Pod.Labels[appsv1.ControllerRevisionHashLabelKey] = "r2" }, SteerHold},
		"rolled back":               {v1alpha1.PhaseRollingBack, v1alpha1.HandoverAborted, nil, SteerPass},
		"over":                      {v1alpha1.PhaseSucceeded, v1alpha1.HandoverCommitted, nil, SteerPass},
	} {
		t.Run(name, func(t *testing.T) {
			yes := true
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "db-1", Labels: map[string]string{appsv1.ControllerRevisionHashLabelKey: "r1"},
				OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: KindStatefulSet, Name: "db", UID: "set", Controller: &yes}}}}
			o := SteerObservation{Migration: keepsName(c.phase, c.h), Pod: pod, Target: &corev1.Pod{}}
			if c.change != nil {
				c.change(&o)
			}
			if got, why := Steer(o); got != c.want || (got == SteerHold) == (why == "") {
				t.Errorf("%s (%s), want %s", got, why, c.want)
			}
		})
	}
}

func TestPodThatIsMadeAgain(t *testing.T) {
	m := keepsName(v1alpha1.PhaseReplacing, v1alpha1.HandoverCommitted)
	source := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "db-1", Namespace: "ns",
		Labels: map[string]string{"app": "db", appsv1.StatefulSetPodNameLabel: "db-1"}, Annotations: map[string]string{"kept": "yes"}},
		Spec:   corev1.PodSpec{NodeName: "n1", Subdomain: "db", Containers: []corev1.Container{{Name: "app", Image: "app:v1"}}},
		Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: "app", ImageID: "registry.example/app@sha256:abc"}}}}
	p, err := BuildPlaceholder(source, m, "gate", corev1.PullAlways, []string{"n2", "n3"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Labels) != 1 || p.Name == "db-1" || ordinalOf(p.Name) != -1 || p.Spec.Hostname != "db-1" {
		t.Errorf("placeholder = %+v", p.ObjectMeta)
	}
	created := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "db-1", Namespace: "ns",
		Labels: map[string]string{"app": "db", appsv1.ControllerRevisionHashLabelKey: "r2"}, OwnerReferences: []metav1.OwnerReference{{UID: "set"}}},
		Spec: corev1.PodSpec{Priority: ptr(int32(7)), Containers: []corev1.Container{{Name: "app", Image: "app:v2"}}}}
	made := func(created, p *corev1.Pod) *corev1.Pod {
		pod, err := SameNamePod(created, p, m, "gate", corev1.PullAlways, "n2")
		if err != nil {
			t.Fatal(err)
		}
		return pod
	}
	got := made(created, p)
	if got.Name != "db-1" || got.Labels["app"] != "db" || got.Labels[appsv1.ControllerRevisionHashLabelKey] != "r1" || got.Labels[v1alpha1.LabelMigration] != "uid" ||
		len(got.OwnerReferences) != 1 || got.Annotations["kept"] != "yes" || got.Annotations[v1alpha1.AnnotationMigration] != "ns/m" {
		t.Errorf("made again = %+v", got.ObjectMeta)
	}
	terms := got.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	if len(terms) != 1 || len(terms[0].MatchExpressions) != 1 || strings.Join(terms[0].MatchExpressions[0].Values, ",") != "n2" {
		t.Errorf("goes to %+v", terms)
	}
	if got.Spec.Containers[0].Image != "registry.example/app@sha256:abc" || len(got.Spec.InitContainers) != 1 || got.Spec.Subdomain != "db" || *got.Spec.Priority != 7 {
		t.Errorf("made again = %+v", got.Spec)
	}
	if alone := made(created, nil); alone.Spec.Containers[0].Image != "app:v2" || len(alone.Spec.InitContainers) != 1 {
		t.Errorf("without a placeholder = %+v", alone.Spec)
	}
}

func TestStatefulSetFacts(t *testing.T) {
	settled := func() *appsv1.StatefulSet {
		return &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "db", UID: "set", Generation: 3},
			Spec:   appsv1.StatefulSetSpec{Replicas: ptr(int32(2))},
			Status: appsv1.StatefulSetStatus{ObservedGeneration: 3, Replicas: 2, ReadyReplicas: 2, CurrentRevision: "r1", UpdateRevision: "r1"}}
	}
	yes := true
	first := func(ready corev1.ConditionStatus) []corev1.Pod {
		return []corev1.Pod{{ObjectMeta: metav1.ObjectMeta{Name: "db-0", OwnerReferences: []metav1.OwnerReference{{UID: "set", Controller: &yes}}},
			Status: corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}}}}}
	}
	now := metav1.NewTime(time.Now())
	for name, c := range map[string]struct {
		change     func(*appsv1.StatefulSet)
		pods       []corev1.Pod
		says       string
		superseded bool
	}{
		"settled":               {nil, first(corev1.ConditionTrue), "", false},
		"not seen":              {func(s *appsv1.StatefulSet) { s.Generation = 4 }, nil, "scaled", false},
		"scaled up":             {func(s *appsv1.StatefulSet) { s.Spec.Replicas = ptr(int32(3)) }, nil, "scaled", false},
		"scaled below it":       {func(s *appsv1.StatefulSet) { s.Spec.Replicas = ptr(int32(1)) }, nil, "does not want", false},
		"other ordinals":        {func(s *appsv1.StatefulSet) { s.Spec.Ordinals = &appsv1.StatefulSetOrdinals{Start: 2} }, nil, "does not want", false},
		"rolled out":            {func(s *appsv1.StatefulSet) { s.Status.UpdateRevision = "r2" }, nil, "rolled out", true},
		"rolled out to it":      {func(s *appsv1.StatefulSet) { s.Status.CurrentRevision = "r0" }, nil, "rolled out", false},
		"one before is not":     {nil, first(corev1.ConditionFalse), "podManagementPolicy", false},
		"one before, in no row": {func(s *appsv1.StatefulSet) { s.Spec.PodManagementPolicy = appsv1.ParallelPodManagement }, first(corev1.ConditionFalse), "", false},
	} {
		t.Run(name, func(t *testing.T) {
			set := settled()
			if c.change != nil {
				c.change(set)
			}
			f := StatefulSetFacts(OwnerFacts{Kind: KindStatefulSet, Name: "db", Revision: "r1"}, set, "db-1", c.pods)
			if (c.says == "") != (f.Unsettled == "") || !strings.Contains(f.Unsettled, c.says) || f.Superseded != c.superseded || f.Gone {
				t.Errorf("%+v", f)
			}
		})
	}
	gone := settled()
	gone.DeletionTimestamp = &now
	for _, set := range []*appsv1.StatefulSet{nil, gone} {
		if f := StatefulSetFacts(OwnerFacts{}, set, "db-1", nil); !f.Gone {
			t.Errorf("%+v", f)
		}
	}
}
