// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/wire"
)

// Kubelet goes on with the next container when a create has failed; the first one has
// to be restored first.
func TestContainersAreRestoredInTurn(t *testing.T) {
	pod := &corev1.Pod{}
	pod.Name, pod.UID = "target", tenantUID
	pod.Spec.InitContainers = []corev1.Container{
		{Name: v1alpha1.GateContainerName}, {Name: "aside", RestartPolicy: ptr.To(corev1.ContainerRestartPolicyAlways)},
	}
	pod.Spec.Containers = []corev1.Container{{Name: "app"}, {Name: "last"}}
	m := targetOf("n2", tenantUID, v1alpha1.PhaseSwitchingOver)
	m.Status.Target.PodName = pod.Name
	a := New(Config{NodeName: "n2", RunDir: t.TempDir(), Client: &api{migrations: []v1alpha1.Migration{m}, pod: pod}})
	ask := func(container string) wire.Reply {
		return a.parking.verdict(context.Background(), wire.Request{Version: wire.Version, PodUID: tenantUID, ContainerName: container})
	}
	if r := ask("aside"); r.Verdict != wire.Park {
		t.Errorf("the first one: %+v", r)
	}
	if r := ask("app"); r.Verdict != wire.Fail || r.Reason != v1alpha1.ReasonNotInTurn {
		t.Errorf("the second one came first: %+v", r)
	}
	h, err := wire.TakeHold(a.RunDir, &wire.Request{PodUID: tenantUID, ContainerName: "aside", ContainerID: "c1"})
	must(t, err)
	must(t, h.Ordered())
	if r := ask("app"); r.Verdict != wire.Fail {
		t.Errorf("while the first one is restored: %+v", r)
	}
	must(t, h.Frozen(&wire.Result{PID: 1}))
	must(t, h.Release())
	for _, name := range []string{"last", "app"} {
		if r := ask(name); r.Verdict != wire.Park {
			t.Errorf("%s, when the first one stands still: %+v", name, r)
		}
	}
	must(t, wire.LetGo(a.RunDir, tenantUID, "aside", "c1", time.Now()))
	if r := ask("app"); r.Verdict != wire.Park {
		t.Errorf("when the first one was let go: %+v", r)
	}
}

// Kubelet takes a container that stands still for one that runs. It has never run.
func TestWhatStoodStillIsNotStartedFromItsImage(t *testing.T) {
	a := New(Config{NodeName: "n2", RunDir: t.TempDir()})
	h, err := wire.TakeHold(a.RunDir, &wire.Request{PodUID: tenantUID, ContainerName: "app", ContainerID: "c1"})
	must(t, err)
	must(t, h.Ordered())
	must(t, h.Frozen(&wire.Result{PID: 1}))
	must(t, h.Release())
	pod := corev1.Pod{}
	pod.UID = tenantUID
	pod.Spec.InitContainers = []corev1.Container{{Name: v1alpha1.GateContainerName}}
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "app", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}
	a.Client = &api{pod: &pod}
	if r := a.parking.withoutMigration(context.Background(), wire.Request{PodUID: tenantUID, ContainerName: "app"}); r.Verdict != wire.Fail {
		t.Errorf("its Migration is gone: %+v", r)
	}
}
