// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/wire"
)

// replacing is a Migration of a pod that keeps its name, when a restore into the pod
// with this UID has begun.
func replacing(target types.UID) *v1alpha1.Migration {
	m := &v1alpha1.Migration{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "m", UID: goneUID}}
	m.Status.Phase, m.Status.Handoff = v1alpha1.PhaseReplacing, v1alpha1.HandoffSameName
	m.Status.Handover = &v1alpha1.Handover{State: v1alpha1.HandoverCommitted, By: "target/n1", ManifestDigest: "d", Time: metav1.NowMicro()}
	m.Status.Source, m.Status.Target = &v1alpha1.SourceStatus{}, &v1alpha1.TargetStatus{PodRef: v1alpha1.PodRef{NodeName: "n1", PodName: "web-0", PodUID: target}}
	now := metav1.NowMicro()
	m.Status.Target.BootID, m.Status.Target.RestoreStartedAt = "boot", &now
	return m
}

func (w *world) targetSession() *targetSession {
	return &targetSession{sessionBase: sessionBase{
		Agent: w.Agent, uid: goneUID, key: types.NamespacedName{Namespace: "ns", Name: "m"}, session: &session{wake: make(chan struct{}, 1)},
	}}
}

// That a restore has begun was said of the pod before. As long as it stands there no
// other pod would be made the target.
func TestWhatWasSaidOfThePodBeforeIsTakenBack(t *testing.T) {
	m := replacing("second")
	begun := m.Status.Target.TargetReport
	m.Status.Target.TargetReport = v1alpha1.TargetReport{}
	w := newWorld(t, m)
	s := w.targetSession()
	s.loaded, s.podUID, s.report = true, "first", begun
	must(t, s.publish(t.Context()))
	if next, done, err := s.step(t.Context()); next != now || done || err != nil {
		t.Fatalf("%v, %v, %v", next, done, err)
	}
	must(t, w.Client.Get(t.Context(), s.key, m))
	if m.Status.Target.RestoreStartedAt != nil || m.Status.Target.BootID != "" || m.Status.Target.PodUID != "second" {
		t.Errorf("the target is %+v", m.Status.Target)
	}
}

// An agent that was restarted has read from the API server that its pod's restore has
// begun, while its cache names the pod before that one. What it knows is not forgotten
// when the cache comes to name its own.
func TestTheReportOfAnotherPodThanIsCachedIsNotLoaded(t *testing.T) {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "node"}}
	w := newWorld(t, replacing("placeholder"), node)
	live := newWorld(t, replacing("second"), node)
	w.Live = live.Client
	s := w.targetSession()
	if next, done, err := s.step(t.Context()); next <= 0 || done || err != nil || s.loaded || s.podUID != "" {
		t.Fatalf("%v, %v, %v: loaded %v for pod %q", next, done, err, s.loaded, s.podUID)
	}
	w.Client = live.Client
	if _, _, err := s.step(t.Context()); err != nil || !s.loaded || s.report.RestoreStartedAt == nil {
		t.Errorf("%v: loaded %v, report %+v", err, s.loaded, s.report)
	}
}

// A target that was removed by force may have run: the mark says so until its
// Migration is over.
func TestTheMarkOfATargetStaysUntilItsMigrationIsOver(t *testing.T) {
	for phase, kept := range map[v1alpha1.MigrationPhase]bool{v1alpha1.PhaseReplacing: true, v1alpha1.PhaseFailed: false} {
		a := New(Config{NodeName: "n1", RunDir: t.TempDir(), Live: &api{migrations: []v1alpha1.Migration{targetOf("n1", podUID, phase)}}})
		h, err := wire.TakeHold(a.RunDir, &wire.Request{PodUID: podUID, ContainerName: "app", ContainerID: "c1"})
		must(t, err)
		must(t, h.Ordered())
		must(t, h.Restored(&wire.Result{PID: 1}))
		must(t, h.Release())
		must(t, a.sweepMarks(t.Context()))
		if a.consumed(podUID, "app") != kept {
			t.Errorf("%s: kept %v, want %v", phase, !kept, kept)
		}
	}
}
