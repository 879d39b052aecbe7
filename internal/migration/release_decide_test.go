// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"strings"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"godwit.dev/godwit/api/v1alpha1"
)

// ofReplicaSet makes the observed pod one of a ReplicaSet's two, which has so many.
func ofReplicaSet(state v1alpha1.OwnerState, has int, changes ...func(*OwnerFacts)) func(*Observation) {
	return func(o *Observation) {
		o.Owner = OwnerFacts{Kind: KindReplicaSet, Name: "web", Wants: 2, Has: has}
		o.Migration.Status.Owner = &v1alpha1.OwnerStatus{Kind: KindReplicaSet, Name: "web", UID: "owner", State: state}
		for _, c := range changes {
			c(&o.Owner)
		}
	}
}

func isReleased(f *OwnerFacts)   { f.Released = true }
func isReturned(f *OwnerFacts)   { f.Returned = true }
func isGone(f *OwnerFacts)       { f.Gone = true }
func isUnsettled(f *OwnerFacts)  { f.Unsettled = `Deployment "web" is being rolled out` }
func isSuperseded(f *OwnerFacts) { isUnsettled(f); f.Superseded = true }
func isChanged(f *OwnerFacts)    { f.Changed = true }
func isUnmarked(f *OwnerFacts)   { f.TargetUnmarked = true }
func isUncounted(f *OwnerFacts)  { f.TargetUncounted = true }

func TestDecideRelease(t *testing.T) {
	const (
		attached  = v1alpha1.OwnerAttached
		releasing = v1alpha1.OwnerReleasing
		released  = v1alpha1.OwnerReleased
	)
	preCopying := func(state v1alpha1.SourceState, changes ...func(*Observation)) Observation {
		return observed(v1alpha1.PhasePreCopying, append([]func(*Observation){sourceState(state), round2(2)}, changes...)...)
	}
	rollingBack := func(state v1alpha1.SourceState, changes ...func(*Observation)) Observation {
		return observed(v1alpha1.PhaseRollingBack, append([]func(*Observation){sourceState(state), register(v1alpha1.HandoverAborted)}, changes...)...)
	}
	committed := func(changes ...func(*Observation)) Observation {
		return observed(v1alpha1.PhaseCompleting, append([]func(*Observation){sourceState(v1alpha1.SourceDumped), register(v1alpha1.HandoverCommitted),
			withTarget(v1alpha1.TargetRestored, 2)}, changes...)...)
	}
	for name, tc := range map[string]struct {
		o      Observation
		action Action
		phase  v1alpha1.MigrationPhase
		says   string // in the message, or the reason of the failure
	}{
		"settled":             {observed(v1alpha1.PhasePending, ofReplicaSet(attached, 2)), Advance, v1alpha1.PhasePreparing, ""},
		"a rollout is on":     {observed(v1alpha1.PhasePending, ofReplicaSet(attached, 2, isUnsettled)), Wait, "", "rolled out"},
		"not converged":       {preCopying(v1alpha1.SourcePreCopying, ofReplicaSet(attached, 2)), Wait, "", "copying"},
		"converged":           {preCopying(v1alpha1.SourceConverged, ofReplicaSet(attached, 2)), AnnounceRelease, "", "releasing"},
		"announced":           {preCopying(v1alpha1.SourceConverged, ofReplicaSet(releasing, 2)), ReleaseSource, "", "releasing"},
		"scaled just now":     {preCopying(v1alpha1.SourceConverged, ofReplicaSet(releasing, 2, isUnsettled)), Wait, "", "rolled out"},
		"converged no more":   {preCopying(v1alpha1.SourcePreCopying, ofReplicaSet(releasing, 2)), Wait, "", "copying"},
		"released":            {preCopying(v1alpha1.SourceConverged, ofReplicaSet(releasing, 1, isReleased)), Wait, "", "is to make the target"},
		"released, recorded":  {preCopying(v1alpha1.SourceConverged, ofReplicaSet(released, 1, isReleased)), Wait, "", "is to make the target"},
		"replaced by another": {preCopying(v1alpha1.SourceConverged, ofReplicaSet(released, 2, isReleased)), Abort, v1alpha1.PhaseRollingBack, v1alpha1.ReasonReplacementNotSteered},
		"replaced by the target": {preCopying(v1alpha1.SourceConverged, ofReplicaSet(released, 2, isReleased), withTarget(v1alpha1.TargetParked, 2)),
			Advance, v1alpha1.PhaseSwitchingOver, ""},
		"rollout before the release": {preCopying(v1alpha1.SourceConverged, ofReplicaSet(attached, 2, isSuperseded)), Abort, v1alpha1.PhaseRollingBack, v1alpha1.ReasonRolloutInProgress},
		"rollout after the release": {preCopying(v1alpha1.SourceConverged, ofReplicaSet(released, 2, isReleased, isSuperseded), withTarget(v1alpha1.TargetParked, 2)),
			Abort, v1alpha1.PhaseRollingBack, v1alpha1.ReasonRolloutInProgress},
		"rollout after the commit": {observed(v1alpha1.PhaseSwitchingOver, register(v1alpha1.HandoverCommitted), sourceState(v1alpha1.SourceDumped),
			withTarget(v1alpha1.TargetRestoring, 2), ofReplicaSet(released, 2, isReleased, isSuperseded)), Wait, "", "committed"},
		"owner gone":    {preCopying(v1alpha1.SourceConverged, ofReplicaSet(attached, 0, isGone)), Abort, v1alpha1.PhaseRollingBack, v1alpha1.ReasonOwnerChanged},
		"owner changed": {preCopying(v1alpha1.SourcePreCopying, ofReplicaSet(attached, 2, isChanged)), Abort, v1alpha1.PhaseRollingBack, v1alpha1.ReasonOwnerChanged},

		"frozen":                         {rollingBack(v1alpha1.SourceFrozen, ofReplicaSet(released, 2, isReleased), withTarget(v1alpha1.TargetParked, 2)), Wait, "", "let go on"},
		"goes on":                        {rollingBack(v1alpha1.SourceResumed, ofReplicaSet(released, 2, isReleased), withTarget(v1alpha1.TargetParked, 2)), ReturnSource, "", "giving"},
		"its target is marked first":     {rollingBack(v1alpha1.SourceResumed, ofReplicaSet(released, 2, isReleased, isUnmarked), withTarget(v1alpha1.TargetParked, 2)), MarkTarget, "", "marked"},
		"given back":                     {rollingBack(v1alpha1.SourceCleaned, ofReplicaSet(released, 3, isReturned), withTarget(v1alpha1.TargetParked, 2)), Wait, "", "too many"},
		"another was removed":            {rollingBack(v1alpha1.SourceCleaned, ofReplicaSet(released, 2, isReturned), withTarget(v1alpha1.TargetParked, 2)), DeleteTarget, "", "removing"},
		"the target was":                 {rollingBack(v1alpha1.SourceCleaned, ofReplicaSet(released, 2, isReturned), withTarget(v1alpha1.TargetParked, 2), targetDeleting), SettleSource, "", "again"},
		"settled, target not gone yet":   {rollingBack(v1alpha1.SourceCleaned, ofReplicaSet(v1alpha1.OwnerRestored, 2), withTarget(v1alpha1.TargetParked, 2), targetDeleting), Wait, "", "being removed"},
		"settled again":                  {rollingBack(v1alpha1.SourceCleaned, ofReplicaSet(v1alpha1.OwnerRestored, 2)), Advance, v1alpha1.PhaseFailed, ""},
		"never released":                 {rollingBack(v1alpha1.SourceCleaned, ofReplicaSet(attached, 2)), Advance, v1alpha1.PhaseFailed, ""},
		"owner gone, source left":        {rollingBack(v1alpha1.SourceCleaned, ofReplicaSet(released, 0, isReleased, isGone)), ReturnSource, "", "giving"},
		"an extra pod is still there":    {rollingBack(v1alpha1.SourceCleaned, ofReplicaSet(released, 3, isReturned)), Wait, "", "too many"},
		"source gone":                    {rollingBack(v1alpha1.SourceCleaned, ofReplicaSet(released, 2), withTarget(v1alpha1.TargetParked, 2), noSource), DeleteTarget, "", "removing"},
		"a Job is told":                  {committed(ofReplicaSet(released, 1, isReleased, isUncounted)), CountTarget, "", "count"},
		"and then the source is deleted": {committed(ofReplicaSet(released, 1, isReleased)), DeleteSource, "", "removing"},
	} {
		t.Run(name, func(t *testing.T) {
			d := Decide(tc.o)
			says := d.Message
			if d.Failure != nil && d.Action == Abort {
				says = d.Failure.Reason
			}
			if d.Action != tc.action || d.Phase != tc.phase || !strings.Contains(says, tc.says) {
				t.Errorf("%+v %+v", d, d.Failure)
			}
		})
	}
}

func noSource(o *Observation) { o.Source = PodFacts{} }

func TestWaitForOwnerEndsWithItsReason(t *testing.T) {
	o := observed(v1alpha1.PhasePending, ofReplicaSet(v1alpha1.OwnerAttached, 2, isUnsettled))
	if d := Decide(o); d.RequeueAfter <= 0 || d.RequeueAfter > ownerPoll {
		t.Errorf("looked at again after %s", d.RequeueAfter)
	}
	o.Now = Deadline(o.Migration).Add(1)
	if d := Decide(o); d.Failure == nil || d.Failure.Reason != v1alpha1.ReasonTimeout || !strings.Contains(d.Failure.Message, "rolled out") {
		t.Errorf("%+v", d.Failure)
	}
}

func TestSteer(t *testing.T) {
	job := func(p *corev1.Pod) {
		p.OwnerReferences[1].Kind, p.OwnerReferences[1].APIVersion = "Job", "batch/v1"
	}
	index := func(i string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Annotations = map[string]string{batchv1.JobCompletionIndexAnnotation: i} }
	}
	phase := func(p corev1.PodPhase) func(*corev1.Pod) { return func(pod *corev1.Pod) { pod.Status.Phase = p } }
	type o = SteerObservation
	status := func(change func(*v1alpha1.Migration)) func(*o) {
		return func(s *o) { change(s.Migration) }
	}
	target := func(changes ...func(*corev1.Pod)) func(*o) {
		return func(s *o) {
			s.Target = deploymentPod()
			s.Target.Name = TargetPodName(s.Migration)
			for _, c := range changes {
				c(s.Target)
			}
		}
	}
	notReleased := func(s *o) { s.Source = deploymentPod() }
	in := func(p v1alpha1.MigrationPhase) func(*o) {
		return status(func(m *v1alpha1.Migration) { m.Status.Phase = p })
	}
	aborted := status(func(m *v1alpha1.Migration) {
		m.Status.Phase, m.Status.Handover = v1alpha1.PhaseRollingBack, &v1alpha1.Handover{State: v1alpha1.HandoverAborted}
	})
	for name, tc := range map[string]struct {
		changes []func(*o)
		want    SteerVerdict
	}{
		"the replacement":            {nil, SteerTake},
		"not released yet":           {[]func(*o){notReleased}, SteerPass},
		"rehearsed":                  {[]func(*o){notReleased, func(s *o) { s.DryRun = true }}, SteerTake},
		"rehearsed by somebody else": {[]func(*o){notReleased, func(s *o) { s.DryRun = true }, status(func(m *v1alpha1.Migration) { m.Status.Owner.State = v1alpha1.OwnerAttached })}, SteerPass},
		"no source any more":         {[]func(*o){func(s *o) { s.Source, s.DryRun = nil, true }}, SteerPass},
		"of another controller":      {[]func(*o){func(s *o) { s.Pod.OwnerReferences[1].UID = "other" }}, SteerPass},
		"of a bare pod's migration":  {[]func(*o){status(func(m *v1alpha1.Migration) { m.Status.Owner = nil })}, SteerPass},
		"it has its target":          {[]func(*o){target()}, SteerPass},
		"and it is recorded": {[]func(*o){target(), status(func(m *v1alpha1.Migration) {
			m.Status.Target = &v1alpha1.TargetStatus{PodRef: v1alpha1.PodRef{PodUID: "t"}}
		})}, SteerPass},
		"recorded, and gone": {[]func(*o){status(func(m *v1alpha1.Migration) {
			m.Status.Target = &v1alpha1.TargetStatus{PodRef: v1alpha1.PodRef{PodUID: "t"}}
		})}, SteerHold},
		"cancelled":                   {[]func(*o){status(func(m *v1alpha1.Migration) { m.Annotations = map[string]string{v1alpha1.AnnotationCancel: "true"} })}, SteerHold},
		"rolling back":                {[]func(*o){aborted}, SteerHold},
		"rolling back, target lives":  {[]func(*o){aborted, target()}, SteerPass},
		"rolling back, target failed": {[]func(*o){aborted, target(job, phase(corev1.PodFailed))}, SteerHold},
		"given back": {[]func(*o){aborted, func(s *o) {
			r := ReleaseOf(s.Source)
			body, _ := ReturnPatch(s.Source, r, true)
			s.Source = patched(t, s.Source, body)
		}}, SteerPass},
		"switching over":                {[]func(*o){in(v1alpha1.PhaseSwitchingOver), target()}, SteerPass},
		"switching over, target gone":   {[]func(*o){in(v1alpha1.PhaseSwitchingOver)}, SteerHold},
		"confirmed, target gone":        {[]func(*o){in(v1alpha1.PhaseCompleting)}, SteerPass},
		"confirmed, ended, not counted": {[]func(*o){in(v1alpha1.PhaseCompleting), target(job, phase(corev1.PodSucceeded))}, SteerHold},
		"confirmed, ended, counted": {[]func(*o){in(v1alpha1.PhaseCompleting), target(job, phase(corev1.PodSucceeded), func(p *corev1.Pod) {
			p.Finalizers = []string{batchv1.JobTrackingFinalizer}
		})}, SteerPass},
		"it does not know that the source is back": {[]func(*o){aborted, notReleased, func(s *o) { s.Full = true }}, SteerHold},
		"just over, it does not know yet":          {[]func(*o){in(v1alpha1.PhaseFailed), notReleased, func(s *o) { s.Full = true }}, SteerHold},
		"the replacement, before it was scaled":    {[]func(*o){func(s *o) { s.Full = true }}, SteerTake},
		"over":                                     {[]func(*o){in(v1alpha1.PhaseFailed), notReleased}, SteerPass},
		"over, and released too late":              {[]func(*o){in(v1alpha1.PhaseFailed)}, SteerHold},
		"moved":                                    {[]func(*o){in(v1alpha1.PhaseSucceeded)}, SteerPass},
		"of the same index":                        {[]func(*o){func(s *o) { index("1")(s.Pod); addIndex(s.Source, "1") }}, SteerTake},
		"of another index":                         {[]func(*o){func(s *o) { index("1")(s.Pod); addIndex(s.Source, "2") }}, SteerPass},
		"of another index, aborting":               {[]func(*o){aborted, func(s *o) { index("1")(s.Pod); addIndex(s.Source, "2") }}, SteerPass},
	} {
		t.Run(name, func(t *testing.T) {
			m := migrationOf("web-1", "1")
			m.Status.Phase = v1alpha1.PhasePreCopying
			m.Status.Owner = &v1alpha1.OwnerStatus{Kind: KindReplicaSet, Name: "web", UID: "owner", State: v1alpha1.OwnerReleasing}
			body, err := ReleasePatch(deploymentPod(), m, []string{"pod-template-hash"})
			if err != nil {
				t.Fatal(err)
			}
			s := SteerObservation{Migration: m, Source: patched(t, deploymentPod(), body), Pod: deploymentPod()}
			s.Pod.Name, s.Pod.GenerateName = "", "web-"
			for _, c := range tc.changes {
				c(&s)
			}
			if got, why := Steer(s); got != tc.want || (got == SteerHold) != (why != "") {
				t.Errorf("%s (%s), want %s", got, why, tc.want)
			}
		})
	}
}

func addIndex(p *corev1.Pod, i string) { p.Annotations[batchv1.JobCompletionIndexAnnotation] = i }

func TestSteeredPod(t *testing.T) {
	m := migrationOf("web-1", "1")
	m.Name, m.Namespace = "m", "ns"
	m.Status.Phase = v1alpha1.PhasePreCopying
	m.Status.Owner = &v1alpha1.OwnerStatus{Kind: KindJob, UID: "owner", State: v1alpha1.OwnerReleased}
	source := jobPod()
	source.Labels["added"] = "by hand"
	source.Spec.Containers = []corev1.Container{{Name: "app", Image: "app:v1"}}
	body, err := ReleasePatch(source, m, []string{"controller-uid", "batch.kubernetes.io/controller-uid"})
	if err != nil {
		t.Fatal(err)
	}
	source = patched(t, source, body)
	created := jobPod()
	created.Name, created.GenerateName, created.UID = "", "web-", ""
	created.Annotations = map[string]string{"batch.kubernetes.io/job-index-failure-count": "0"}
	created.Spec.Priority = ptr(int32(7))
	pod := SteerPod(created, source, m, "godwit:v1", corev1.PullIfNotPresent, []string{"n2"})
	if pod.Name != TargetPodName(m) || pod.GenerateName != "web-" || metav1.GetControllerOf(pod).UID != "owner" || !IsTarget(m, pod) {
		t.Errorf("pod = %+v", pod.ObjectMeta)
	}
	if pod.Labels["controller-uid"] != "owner" || pod.Labels["added"] != "by hand" || pod.Labels[v1alpha1.LabelMigration] != string(m.UID) {
		t.Errorf("labels = %v", pod.Labels)
	}
	if _, ok := pod.Annotations[v1alpha1.AnnotationRelease]; ok || pod.Annotations["batch.kubernetes.io/job-index-failure-count"] != "0" ||
		pod.Annotations[v1alpha1.AnnotationMigration] != "ns/m" {
		t.Errorf("annotations = %v", pod.Annotations)
	}
	if len(pod.Finalizers) != 1 || *pod.Spec.Priority != 7 || len(pod.Spec.InitContainers) != 1 || pod.Spec.Hostname != "web-1" {
		t.Errorf("finalizers %v, spec %+v", pod.Finalizers, pod.Spec)
	}
	for name, change := range map[string]func(*corev1.Pod){
		"another name":  func(p *corev1.Pod) { p.Name = "other" },
		"another label": func(p *corev1.Pod) { p.Labels[v1alpha1.LabelMigration] = "other" },
		"another owner": func(p *corev1.Pod) { p.OwnerReferences[1].UID = "other" },
		"no owner":      func(p *corev1.Pod) { p.OwnerReferences = nil },
	} {
		other := pod.DeepCopy()
		change(other)
		if IsTarget(m, other) {
			t.Errorf("%s: taken for the target", name)
		}
	}
}
