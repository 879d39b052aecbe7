// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/migration"
)

// A new controller takes over after every step, as after a crash.
func TestControllerRestartsAfterEveryStep(t *testing.T) {
	f := newFixture(t)
	f.runningPod("redis")
	f.create("m", v1alpha1.MigrationSpec{PodName: "redis"})
	restart := func() {
		f.stop()
		f.start()
	}
	f.awaitPhase("m", v1alpha1.PhasePreparing)
	restart()
	m := f.toPreCopying("m")
	target := m.Status.Target.PodUID
	restart()
	f.schedulerBinds(m.Status.Target.PodName, "n2")
	f.sourceReports("m", roundsReport(v1alpha1.SourceConverged, 2))
	restart()
	f.targetReports("m", parkedReport(2))
	f.awaitPhase("m", v1alpha1.PhaseSwitchingOver)
	restart()
	f.sourceReports("m", dumpedReport(2))
	f.stop() // nobody is there while the commit happens
	f.must(f.commit("m"), "commit")
	f.targetReports("m", restoredReport(2))
	f.kubeletRuns(f.pod(m.Status.Target.PodName))
	f.start()
	m = f.awaitPhase("m", v1alpha1.PhaseCompleting)
	restart()
	f.until("the source pod's deletion", func() bool { return f.pod("redis").DeletionTimestamp != nil }, func() string { return "" })
	f.stop()
	f.kubeletRemoves(m.Status.Source.PodRef)
	r := dumpedReport(2)
	r.State = v1alpha1.SourceCleaned
	f.sourceReports("m", r)
	f.start()
	m = f.awaitPhase("m", v1alpha1.PhaseSucceeded)
	if m.Status.Target.PodUID != target || len(m.Status.PhaseTransitionTimestamps) != 6 {
		t.Errorf("status = %+v", m.Status)
	}
}

// The controller dies between creating the target pod and recording it.
func TestUnrecordedTargetPodIsFoundAgain(t *testing.T) {
	f := newFixture(t)
	source := f.runningPod("redis")
	m := f.create("m", v1alpha1.MigrationSpec{PodName: "redis"})
	f.awaitPhase("m", v1alpha1.PhasePreparing)
	f.stop()
	orphan := migration.BuildTargetPod(source, m, "godwit:test", corev1.PullIfNotPresent, []string{"n2"})
	f.must(testClient.Create(f.ctx, orphan), "create the target pod")
	m = f.get("m")
	m.Status.Phase = v1alpha1.PhasePreCopying
	f.must(testClient.Status().Update(f.ctx, m), "status")
	f.start()
	m = f.await("m", "a target", func(m *v1alpha1.Migration) bool { return m.Status.Target != nil })
	if m.Status.Target.PodUID != orphan.UID {
		t.Errorf("target = %+v, want %s", m.Status.Target.PodRef, orphan.UID)
	}
	var pods corev1.PodList
	f.must(testClient.List(f.ctx, &pods, client.InNamespace(f.ns)), "list pods")
	if len(pods.Items) != 2 {
		t.Errorf("%d pods", len(pods.Items))
	}
}

// There and back again: the target of the first is the source of the second.
func TestSecondMigrationOfTheSamePod(t *testing.T) {
	f := newFixture(t)
	f.runningPod("redis")
	f.create("there", v1alpha1.MigrationSpec{PodName: "redis"})
	first := f.toSucceeded("there")
	f.create("back", v1alpha1.MigrationSpec{PodName: first.Status.Target.PodName})
	m := f.toPreCopying("back")
	if m.Status.Source.NodeName != "n2" {
		t.Errorf("source = %+v", m.Status.Source.PodRef)
	}
	pod := f.pod(m.Status.Target.PodName)
	terms := pod.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	if len(terms) != 1 || len(terms[0].MatchExpressions) != 1 || !slices.Equal(terms[0].MatchExpressions[0].Values, []string{"n1"}) {
		t.Errorf("affinity piles up: %+v", terms)
	}
	if len(pod.Spec.InitContainers) != 1 || pod.Spec.Hostname != "redis" || len(pod.Name) != len(first.Status.Target.PodName) {
		t.Errorf("pod = %+v", pod)
	}
}

func TestFinishedMigrationIsDeletedAfterItsTime(t *testing.T) {
	f := newFixture(t)
	f.runningPod("redis")
	ttl := int32(3600)
	m := f.create("m", v1alpha1.MigrationSpec{PodName: "redis", DryRun: true, TTLSecondsAfterFinished: &ttl})
	f.awaitPhase("m", v1alpha1.PhasePreparing)
	f.sourceReports("m", checkedReport())
	f.awaitPhase("m", v1alpha1.PhaseSucceeded)
	f.clock.forward(59 * time.Minute)
	f.touch("m")
	f.await("m", "the finalizer's removal", func(m *v1alpha1.Migration) bool { return len(m.Finalizers) == 0 })
	// Nobody has to touch it, but a clock that jumps wakes nobody.
	patch := client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"labels":{"test":"touched"}}}`))
	f.clock.forward(2 * time.Minute)
	f.must(client.IgnoreNotFound(testClient.Patch(f.ctx, m.DeepCopy(), patch)), "touch")
	f.until("the Migration to be gone", func() bool { return f.gone(m) }, func() string { return string(m.Status.Phase) })
}

func TestTimeToLiveNeedsNoEvent(t *testing.T) {
	f := newFixture(t)
	ttl := int32(1)
	m := f.create("m", v1alpha1.MigrationSpec{PodName: "nobody", TTLSecondsAfterFinished: &ttl})
	f.until("the Migration to be gone", func() bool { return f.gone(m) }, func() string { return string(m.Status.Phase) })
}

// Server-side apply would take back what a manager once wrote: the controller
// must never become an owner of a field that an agent reports.
func TestControllerOwnsNoReportedField(t *testing.T) {
	f := newFixture(t)
	f.runningPod("redis")
	f.create("m", v1alpha1.MigrationSpec{PodName: "redis"})
	m := f.toSucceeded("m")
	checked := 0
	for _, entry := range m.ManagedFields {
		if entry.Manager != v1alpha1.FieldManagerController || entry.Subresource != "status" {
			continue
		}
		var fields struct {
			Status map[string]json.RawMessage `json:"f:status"`
		}
		f.must(json.Unmarshal(entry.FieldsV1.GetRawBytes(), &fields), "managed fields")
		for _, side := range []string{"f:source", "f:target"} {
			owned := map[string]json.RawMessage{}
			f.must(json.Unmarshal(fields.Status[side], &owned), "managed fields of %s", side)
			for field := range owned {
				if !slices.Contains([]string{".", "f:podName", "f:podUID", "f:nodeName", "f:nodeUID", "f:startedAt"}, field) {
					t.Errorf("the controller owns %s of status.%s", field, side)
				}
				checked++
			}
		}
	}
	if checked == 0 {
		t.Error("found no fields of the controller's")
	}
}
