// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/migration"
)

func TestPodMovesToTheTarget(t *testing.T) {
	f := newFixture(t)
	source := f.runningPod("redis")
	f.create("move", v1alpha1.MigrationSpec{PodName: "redis"})

	m := f.awaitPhase("move", v1alpha1.PhasePreparing)
	if got := m.Status.Source.PodRef; got != (v1alpha1.PodRef{NodeName: "n1", PodName: "redis", PodUID: source.UID}) {
		t.Errorf("status.source = %+v", got)
	}
	if !slices.Contains(m.Finalizers, v1alpha1.Finalizer) {
		t.Errorf("finalizers = %v", m.Finalizers)
	}

	m = f.toPreCopying("move")
	target := f.pod(migration.TargetPodName(m))
	checkTargetPod(t, m, target)
	f.schedulerBinds(target.Name, "n2")
	f.await("move", "the target's node", func(m *v1alpha1.Migration) bool { return m.Status.Target.NodeName == "n2" })

	// Converged is not enough while the target is behind.
	f.sourceReports("move", roundsReport(v1alpha1.SourceConverged, 2))
	f.targetReports("move", parkedReport(1))
	m = f.await("move", "the rounds in the message", func(m *v1alpha1.Migration) bool {
		return meta.IsStatusConditionTrue(m.Status.Conditions, v1alpha1.ConditionTargetReady) &&
			meta.IsStatusConditionTrue(m.Status.Conditions, v1alpha1.ConditionConverged)
	})
	if m.Status.Phase != v1alpha1.PhasePreCopying {
		t.Fatalf("armed before the target had verified all rounds: %+v", m.Status)
	}
	f.targetReports("move", parkedReport(2))
	f.awaitPhase("move", v1alpha1.PhaseSwitchingOver)
	f.sourceReports("move", dumpedReport(2))
	f.must(f.commit("move"), "commit")

	// Restored, but kubelet has not seen it run: the source stays.
	f.targetReports("move", restoredReport(2))
	m = f.await("move", "the downtime", func(m *v1alpha1.Migration) bool { return m.Status.Downtime != nil })
	if m.Status.Phase != v1alpha1.PhaseSwitchingOver {
		t.Fatalf("phase = %s before kubelet saw the target run", m.Status.Phase)
	}
	f.kubeletRuns(f.pod(target.Name))
	m = f.awaitPhase("move", v1alpha1.PhaseCompleting)
	f.until("the source pod's deletion", func() bool { return f.pod("redis").DeletionTimestamp != nil }, func() string { return "" })
	if grace := f.pod("redis").DeletionGracePeriodSeconds; grace == nil || *grace != int64(deletionGrace.Seconds()) {
		t.Errorf("grace period = %v", grace)
	}

	reported := dumpedReport(2)
	reported.State, reported.KilledAt = v1alpha1.SourceCleaned, at(12)
	f.kubeletRemoves(m.Status.Source.PodRef)
	f.sourceReports("move", reported)
	m = f.awaitPhase("move", v1alpha1.PhaseSucceeded)
	f.await("move", "the finalizer's removal", func(m *v1alpha1.Migration) bool { return len(m.Finalizers) == 0 })
	checkReport(t, m, reported)
	f.checkEvents(m)
	f.checkMetrics()
}

func checkTargetPod(t *testing.T, m *v1alpha1.Migration, pod *corev1.Pod) {
	t.Helper()
	if m.Status.Target.PodUID != pod.UID || pod.Labels[v1alpha1.LabelMigration] != string(m.UID) || pod.Labels["app"] != "redis" {
		t.Errorf("target = %+v, labels %v", m.Status.Target.PodRef, pod.Labels)
	}
	if len(pod.OwnerReferences) != 0 || pod.Spec.NodeName != "" || *pod.Spec.RuntimeClassName != v1alpha1.RuntimeClassName || pod.Spec.Hostname != "redis" {
		t.Errorf("target pod = %+v", pod)
	}
	if got := pod.Spec.Containers[0].Image; got != "registry.example/app@sha256:"+digest {
		t.Errorf("image = %s", got)
	}
	if gate := pod.Spec.InitContainers; len(gate) != 1 || gate[0].Name != v1alpha1.GateContainerName || gate[0].Image != "godwit:test" {
		t.Errorf("init containers = %+v", gate)
	}
	term := pod.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[0]
	if got := term.MatchExpressions[0].Values; !slices.Equal(got, []string{"n2"}) {
		t.Errorf("allowed nodes = %v, want n2 only", got)
	}
}

func checkReport(t *testing.T, m *v1alpha1.Migration, source v1alpha1.SourceReport) {
	t.Helper()
	s := &m.Status
	if s.CompletionTime == nil || s.ObservedGeneration != m.Generation || s.Failure != nil {
		t.Errorf("status = %+v", s)
	}
	want := &v1alpha1.DowntimeStatus{
		Total:         metav1.Duration{Duration: 1700 * time.Millisecond},
		FreezeAndDump: metav1.Duration{Duration: 500 * time.Millisecond},
		Handover:      metav1.Duration{Duration: 200 * time.Millisecond},
		Restore:       metav1.Duration{Duration: time.Second},
	}
	if !equality.Semantic.DeepEqual(s.Downtime, want) {
		t.Errorf("downtime = %+v, want %+v", s.Downtime, want)
	}
	if s.BytesTransferred != 7<<20 {
		t.Errorf("bytes = %d", s.BytesTransferred)
	}
	// Nothing that the agents reported got lost.
	if !equality.Semantic.DeepEqual(s.Source.SourceReport, source) {
		t.Errorf("source report\n%+v\nwant\n%+v", s.Source.SourceReport, source)
	}
	if report := restoredReport(2); !equality.Semantic.DeepEqual(s.Target.TargetReport, report) {
		t.Errorf("target report\n%+v\nwant\n%+v", s.Target.TargetReport, report)
	}
	for _, c := range []string{v1alpha1.ConditionEligible, v1alpha1.ConditionTargetReady, v1alpha1.ConditionConverged, v1alpha1.ConditionHandedOver, v1alpha1.ConditionComplete} {
		if !meta.IsStatusConditionTrue(s.Conditions, c) {
			t.Errorf("condition %s = %+v", c, meta.FindStatusCondition(s.Conditions, c))
		}
	}
	var phases []v1alpha1.MigrationPhase
	for _, p := range s.PhaseTransitionTimestamps {
		phases = append(phases, p.Phase)
	}
	if !slices.Equal(phases, []v1alpha1.MigrationPhase{v1alpha1.PhasePending, v1alpha1.PhasePreparing, v1alpha1.PhasePreCopying,
		v1alpha1.PhaseSwitchingOver, v1alpha1.PhaseCompleting, v1alpha1.PhaseSucceeded}) {
		t.Errorf("phases = %v", phases)
	}
}

// checkEvents waits for the catalogue's events of a success, each once.
func (f *fixture) checkEvents(m *v1alpha1.Migration) {
	f.Helper()
	want := map[string][]string{
		string(m.UID):                  {"Accepted", "Preparing", "PreCopying", "TargetPodCreated", "TargetPodScheduled", "SwitchingOver", "Completing", "Succeeded"},
		string(m.Status.Source.PodUID): {"PreCopying", "SwitchingOver", "HandedOver", "Completing"},
		string(m.Status.Target.PodUID): {"TargetPodCreated", "TargetReady", "SwitchingOver", "HandedOver", "Completing", "Succeeded"},
	}
	got := map[string][]string{}
	f.until("all events", func() bool {
		var list eventsv1.EventList
		f.must(testClient.List(f.ctx, &list, client.InNamespace(f.ns)), "list events")
		clear(got)
		for _, e := range list.Items {
			uid := string(e.Regarding.UID)
			got[uid] = append(got[uid], e.Reason)
			if e.Series != nil {
				f.Errorf("event %s was emitted %d times", e.Reason, e.Series.Count)
			}
		}
		for uid, reasons := range want {
			if !sameSet(got[uid], reasons) {
				return false
			}
		}
		return true
	}, func() string { return describe(got, want) })
}

func sameSet(a, b []string) bool {
	a, b = slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b))
	return slices.Equal(a, b)
}
