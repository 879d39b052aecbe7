// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"godwit.dev/godwit/api/v1alpha1"
)

// A create that failed after the processes were let go: containerd has ended them,
// and the agent's report, stored before, is all that speaks for the target. The
// source is not removed, whatever kubelet tries; only a run of the container that
// was restored lets it go.
func TestAFailedCreateDoesNotConfirmTheTarget(t *testing.T) {
	f := newFixture(t)
	source := f.runningPod("redis")
	f.create("m", v1alpha1.MigrationSpec{PodName: "redis"})
	m := f.toCommitted("m")
	target := f.pod(m.Status.Target.PodName)
	status := func(s corev1.ContainerStatus) {
		f.Helper()
		s.Name, s.Image = "app", "app:v1"
		f.podStatus(target, func(p *corev1.PodStatus) {
			p.Phase, p.ContainerStatuses = corev1.PodRunning, []corev1.ContainerStatus{s}
		})
	}
	began := metav1.Now()
	waiting := corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}
	startError := corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
		ContainerID: "containerd://4567", Reason: "StartError", ExitCode: 128, StartedAt: metav1.Unix(0, 0), FinishedAt: began}}
	running := corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: began}}
	for name, s := range map[string]corev1.ContainerStatus{
		"start error":            {ContainerID: "containerd://4567", State: startError},
		"waits after one":        {ContainerID: "containerd://4567", State: waiting, LastTerminationState: startError, RestartCount: 1},
		"another container runs": {ContainerID: "containerd://other", State: running, RestartCount: 1},
	} {
		status(s)
		if started(f.pod(target.Name), f.get("m").Status.Target) {
			t.Errorf("%s: counts as a run", name)
		}
	}
	status(corev1.ContainerStatus{ContainerID: "containerd://4567", State: waiting, LastTerminationState: startError, RestartCount: 7})
	f.targetReports("m", restoredReport(2))
	m = f.await("m", "the downtime", func(m *v1alpha1.Migration) bool { return m.Status.Downtime != nil })
	if m.Status.Phase != v1alpha1.PhaseSwitchingOver {
		t.Fatalf("phase %s after a create that failed", m.Status.Phase)
	}
	f.sourceGoesOn(source)
	// It ran, and has ended by now: the target owns the pod.
	status(corev1.ContainerStatus{ContainerID: "containerd://other", State: waiting, RestartCount: 1,
		LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ContainerID: "containerd://4567", Reason: "Error", ExitCode: 1, StartedAt: began, FinishedAt: began}}})
	f.awaitPhase("m", v1alpha1.PhaseCompleting)
}
