// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"encoding/json"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/api/v1alpha1"
)

// The players that the controller meets in a cluster: kubelet, the scheduler
// and the two agents.

// runningPod makes a pod that runs on n1.
func (f *fixture) runningPod(name string, change ...func(*corev1.Pod)) *corev1.Pod {
	f.Helper()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: f.ns, Name: name, Labels: map[string]string{"app": name}},
		Spec: corev1.PodSpec{
			NodeName:   "n1",
			Containers: []corev1.Container{{Name: "app", Image: "app:v1"}},
		},
	}
	for _, c := range change {
		c(pod)
	}
	f.must(testClient.Create(f.ctx, pod), "create pod %s", name)
	f.kubeletRuns(pod)
	return pod
}

// kubeletRuns reports a pod's containers as running.
func (f *fixture) kubeletRuns(pod *corev1.Pod) {
	f.Helper()
	f.podStatus(pod, func(s *corev1.PodStatus) {
		s.Phase = corev1.PodRunning
		s.ContainerStatuses = nil
		for _, c := range pod.Spec.Containers {
			s.ContainerStatuses = append(s.ContainerStatuses, corev1.ContainerStatus{
				Name: c.Name, Image: c.Image, ImageID: "registry.example/app@sha256:" + digest, ContainerID: "containerd://4567",
				State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()}},
			})
		}
	})
}

func (f *fixture) podStatus(pod *corev1.Pod, change func(*corev1.PodStatus)) {
	f.Helper()
	patch := client.MergeFrom(pod.DeepCopy())
	change(&pod.Status)
	f.must(testClient.Status().Patch(f.ctx, pod, patch), "status of pod %s", pod.Name)
}

// kubeletRemoves ends a pod's deletion, which the API server leaves to kubelet.
func (f *fixture) kubeletRemoves(ref v1alpha1.PodRef) {
	f.Helper()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: f.ns, Name: ref.PodName}}
	f.must(client.IgnoreNotFound(testClient.Delete(f.ctx, pod, client.GracePeriodSeconds(0), client.Preconditions{UID: &ref.PodUID})), "remove pod %s", ref.PodName)
}

// pod reads a pod; it must exist.
func (f *fixture) pod(name string) *corev1.Pod {
	f.Helper()
	pod := &corev1.Pod{}
	f.must(testClient.Get(f.ctx, client.ObjectKey{Namespace: f.ns, Name: name}, pod), "get pod %s", name)
	return pod
}

// schedulerBinds places a pod.
func (f *fixture) schedulerBinds(name, node string) {
	f.Helper()
	f.must(testClient.SubResource("binding").Create(f.ctx, f.pod(name), &corev1.Binding{Target: corev1.ObjectReference{Kind: "Node", Name: node}}), "bind %s", name)
}

// digest is the SHA-256 of nothing in particular.
const digest = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

// sourceReports applies the source agent's report, the way it does: all of it,
// each time.
func (f *fixture) sourceReports(name string, r v1alpha1.SourceReport) {
	f.Helper()
	f.must(f.apply(name, "source", v1alpha1.FieldManagerSource, &r), "source report")
}

func (f *fixture) targetReports(name string, r v1alpha1.TargetReport) {
	f.Helper()
	f.must(f.apply(name, "target", v1alpha1.FieldManagerTarget, &r), "target report")
}

func (f *fixture) apply(name, side, manager string, report any) error {
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(report)
	if err != nil {
		return err
	}
	u := &unstructured.Unstructured{Object: map[string]any{"status": map[string]any{side: fields}}}
	u.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("Migration"))
	u.SetNamespace(f.ns)
	u.SetName(name)
	return testClient.Status().Apply(f.ctx, client.ApplyConfigurationFromUnstructured(u), client.FieldOwner(manager), client.ForceOwnership)
}

// writeRegister writes the handover register as the agents do: a JSON patch
// whose tests the API server checks on the object that it then stores.
func (f *fixture) writeRegister(name string, was any, h v1alpha1.Handover) error {
	f.Helper()
	if h.Time.IsZero() {
		h.Time = metav1.NewMicroTime(time.Now())
	}
	body, err := json.Marshal([]map[string]any{
		{"op": "test", "path": "/status/handover", "value": was},
		{"op": "add", "path": "/status/handover", "value": h},
	})
	f.must(err, "encode")
	m := &v1alpha1.Migration{ObjectMeta: metav1.ObjectMeta{Namespace: f.ns, Name: name}}
	return testClient.Status().Patch(f.ctx, m, client.RawPatch(types.JSONPatchType, body))
}

func (f *fixture) commit(name string) error {
	f.Helper()
	return f.writeRegister(name, nil, v1alpha1.Handover{State: v1alpha1.HandoverCommitted, By: "target/n2", ManifestDigest: digest})
}

// Reports at the milestones of a migration.

func at(seconds float64) *metav1.MicroTime {
	t := metav1.NewMicroTime(time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC).Add(time.Duration(seconds * float64(time.Second))))
	return &t
}

func checkedReport() v1alpha1.SourceReport {
	yes := true
	return v1alpha1.SourceReport{State: v1alpha1.SourceChecked, DirtyTracking: &yes, ResidentBytes: 64 << 20}
}

func roundsReport(state v1alpha1.SourceState, n int32) v1alpha1.SourceReport {
	r := checkedReport()
	r.State, r.Round, r.Dirty = state, &n, "2Mi"
	r.Convergence = &v1alpha1.ConvergenceStatus{Verdict: v1alpha1.VerdictSwitch, Reason: "WithinTargetDowntime", Message: "2Mi dirty"}
	c := v1alpha1.SourceContainerStatus{Name: "app", ContainerID: "0123"}
	for i := range n {
		c.Rounds = append(c.Rounds, v1alpha1.RoundStatus{Index: i, DumpStatus: v1alpha1.DumpStatus{
			StartTime: *at(float64(i)), Duration: metav1.Duration{Duration: time.Second}, MemoryBytes: 1 << 20, Bytes: 2 << 20}})
	}
	r.Containers = []v1alpha1.SourceContainerStatus{c}
	return r
}

func dumpedReport(n int32) v1alpha1.SourceReport {
	r := roundsReport(v1alpha1.SourceDumped, n)
	r.FrozenAt, r.DumpedAt, r.ManifestDigest = at(10), at(10.5), digest
	r.Containers[0].FinalDump = &v1alpha1.DumpStatus{StartTime: *at(10.1), Bytes: 3 << 20}
	return r
}

func parkedReport(verified int32) v1alpha1.TargetReport {
	return v1alpha1.TargetReport{State: v1alpha1.TargetParked, VerifiedRounds: verified,
		Containers: []v1alpha1.TargetContainerStatus{{Name: "app", ContainerID: "4567", ParkedAt: at(5)}}}
}

func restoredReport(verified int32) v1alpha1.TargetReport {
	r := parkedReport(verified)
	r.State, r.RestoreStartedAt, r.RestoredAt = v1alpha1.TargetRestored, at(10.7), at(11.7)
	r.Containers[0].Restore = &v1alpha1.RestoreStatus{StartTime: *at(10.7), Duration: metav1.Duration{Duration: time.Second}}
	return r
}

// Steps of a migration, each played up to a phase.

func (f *fixture) toPreCopying(name string) *v1alpha1.Migration {
	f.Helper()
	f.awaitPhase(name, v1alpha1.PhasePreparing)
	f.sourceReports(name, checkedReport())
	return f.await(name, "a target pod", func(m *v1alpha1.Migration) bool {
		return m.Status.Phase == v1alpha1.PhasePreCopying && m.Status.Target != nil && m.Status.Target.PodUID != ""
	})
}

func (f *fixture) toSwitchingOver(name string) *v1alpha1.Migration {
	f.Helper()
	m := f.toPreCopying(name)
	f.schedulerBinds(m.Status.Target.PodName, "n2")
	f.sourceReports(name, roundsReport(v1alpha1.SourceConverged, 2))
	f.targetReports(name, parkedReport(2))
	return f.awaitPhase(name, v1alpha1.PhaseSwitchingOver)
}

func (f *fixture) toCommitted(name string) *v1alpha1.Migration {
	f.Helper()
	m := f.toSwitchingOver(name)
	f.sourceReports(name, dumpedReport(2))
	f.must(f.commit(name), "commit")
	return m
}

func (f *fixture) toCompleting(name string) *v1alpha1.Migration {
	f.Helper()
	m := f.toCommitted(name)
	f.targetReports(name, restoredReport(2))
	f.kubeletRuns(f.pod(m.Status.Target.PodName))
	return f.awaitPhase(name, v1alpha1.PhaseCompleting)
}

func (f *fixture) toSucceeded(name string) *v1alpha1.Migration {
	f.Helper()
	m := f.toCompleting(name)
	f.until("the source pod's deletion", func() bool {
		return f.pod(m.Status.Source.PodName).DeletionTimestamp != nil
	}, func() string { return "" })
	r := dumpedReport(2)
	r.State, r.KilledAt = v1alpha1.SourceCleaned, at(12)
	f.kubeletRemoves(m.Status.Source.PodRef)
	f.sourceReports(name, r)
	return f.awaitPhase(name, v1alpha1.PhaseSucceeded)
}

// rollsBack plays a rollback to its end: the source agent lets the pod go on
// and cleans up, kubelet ends the target.
func (f *fixture) rollsBack(name string, report v1alpha1.SourceReport) {
	f.Helper()
	m := f.awaitPhase(name, v1alpha1.PhaseRollingBack)
	if m.Status.Handover == nil || m.Status.Handover.State != v1alpha1.HandoverAborted {
		f.Fatalf("rolling back without an abort: %+v", m.Status)
	}
	if t := m.Status.Target; t != nil && t.PodUID != "" {
		f.until("the target pod's deletion", func() bool {
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: f.ns, Name: t.PodName}}
			return f.gone(pod) || pod.DeletionTimestamp != nil || pod.UID != t.PodUID
		}, func() string { return "" })
		f.kubeletRemoves(t.PodRef)
	}
	report.State, report.ResumedAt = v1alpha1.SourceCleaned, at(20)
	f.sourceReports(name, report)
}

// sourceGoesOn checks that the source pod is as it was.
func (f *fixture) sourceGoesOn(pod *corev1.Pod) {
	f.Helper()
	got := f.pod(pod.Name)
	if got.UID != pod.UID || got.DeletionTimestamp != nil || got.Status.Phase != corev1.PodRunning {
		f.Errorf("the source pod is no longer what it was: %+v", got)
	}
}
