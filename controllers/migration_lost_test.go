// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/rand"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/api/v1alpha1"
)

// ownNode makes a Node for one test, which may lose it; another test's
// scheduler never chooses it.
func (f *fixture) ownNode() *corev1.Node {
	f.Helper()
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "lost-" + rand.String(6)}}
	f.must(testClient.Create(f.ctx, node), "create node")
	f.nodeReady(node.Name, corev1.ConditionTrue)
	f.Cleanup(func() { _ = testClient.Delete(f.ctx, node) }) // a test may have deleted it
	return node
}

func (f *fixture) nodeReady(name string, status corev1.ConditionStatus) {
	f.Helper()
	node := &corev1.Node{}
	f.must(testClient.Get(f.ctx, client.ObjectKey{Name: name}, node), "get node")
	reason := "KubeletReady"
	if status != corev1.ConditionTrue {
		reason = "NodeStatusUnknown"
	}
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: status, Reason: reason, LastTransitionTime: metav1.Now()}}
	f.must(testClient.Status().Update(f.ctx, node), "node status")
}

func (f *fixture) outOfService(name string) {
	f.Helper()
	node := &corev1.Node{}
	f.must(testClient.Get(f.ctx, client.ObjectKey{Name: name}, node), "get node")
	patch := client.MergeFrom(node.DeepCopy())
	node.Spec.Taints = append(node.Spec.Taints, corev1.Taint{Key: corev1.TaintNodeOutOfService, Value: "nodeshutdown", Effect: corev1.TaintEffectNoExecute})
	f.must(testClient.Patch(f.ctx, node, patch), "taint node")
}

// toCommittedOn plays a migration to its commit on a node.
func (f *fixture) toCommittedOn(name, node string) *v1alpha1.Migration {
	f.Helper()
	f.toPreCopying(name)
	return f.commitOn(name, node)
}

// commitOn goes on from a target pod that waits for a node.
func (f *fixture) commitOn(name, node string) *v1alpha1.Migration {
	f.Helper()
	m := f.get(name)
	f.schedulerBinds(m.Status.Target.PodName, node)
	f.sourceReports(name, roundsReport(v1alpha1.SourceConverged, 2))
	f.targetReports(name, parkedReport(2))
	m = f.awaitPhase(name, v1alpha1.PhaseSwitchingOver)
	f.sourceReports(name, dumpedReport(2))
	f.must(f.writeRegister(name, nil, v1alpha1.Handover{State: v1alpha1.HandoverCommitted, By: "target/" + node, ManifestDigest: digest}), "commit")
	f.targetReports(name, restoringReport())
	return m
}

func restoringReport() v1alpha1.TargetReport {
	r := parkedReport(2)
	r.State, r.RestoreStartedAt = v1alpha1.TargetRestoring, at(10.7)
	return r
}

func (f *fixture) resolve(name string, request v1alpha1.ResolveRequest) {
	f.Helper()
	m := f.get(name)
	patch := client.MergeFrom(m.DeepCopy())
	m.Annotations = map[string]string{v1alpha1.AnnotationResolve: string(request)}
	f.must(testClient.Patch(f.ctx, m, patch, client.FieldOwner("a-person")), "annotate %s", name)
}

// answered waits for the answer, and for the request to be removed.
func (f *fixture) answered(name string, request v1alpha1.ResolveRequest, outcome v1alpha1.ResolutionOutcome) *v1alpha1.Migration {
	f.Helper()
	return f.await(name, "an answer to "+string(request), func(m *v1alpha1.Migration) bool {
		r := m.Status.Resolution
		return r != nil && r.Request == request && r.Outcome == outcome && r.Closed && m.Annotations[v1alpha1.AnnotationResolve] == ""
	})
}

// expectEvent waits for an event of that reason on the Migration.
func (f *fixture) expectEvent(m *v1alpha1.Migration, reason string) {
	f.Helper()
	seen := map[string]bool{}
	f.until("event "+reason, func() bool {
		var list eventsv1.EventList
		f.must(testClient.List(f.ctx, &list, client.InNamespace(f.ns)), "list events")
		for i := range list.Items {
			if list.Items[i].Regarding.UID == m.UID {
				seen[list.Items[i].Reason] = true
			}
		}
		return seen[reason]
	}, func() string { return fmt.Sprint(seen) })
}

func (f *fixture) awaitLost(name string, status metav1.ConditionStatus, reason string) *v1alpha1.Migration {
	f.Helper()
	return f.await(name, "condition TargetLost "+string(status)+" "+reason, func(m *v1alpha1.Migration) bool {
		c := meta.FindStatusCondition(m.Status.Conditions, v1alpha1.ConditionTargetLost)
		return c != nil && c.Status == status && c.Reason == reason
	})
}

func TestALostNodeGivesTheSourceBackOnceItIsKnownToBeGone(t *testing.T) {
	for name, prove := range map[string]func(*fixture, *corev1.Node){
		"out of service": func(f *fixture, n *corev1.Node) { f.outOfService(n.Name) },
		"Node deleted":   func(f *fixture, n *corev1.Node) { f.must(testClient.Delete(f.ctx, n), "delete node") },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			node := f.ownNode()
			source := f.runningPod("redis")
			f.create("m", v1alpha1.MigrationSpec{PodName: "redis"})
			m := f.toCommittedOn("m", node.Name)
			if m.Status.Target.NodeUID != node.UID {
				t.Errorf("recorded Node %q, want %q", m.Status.Target.NodeUID, node.UID)
			}
			if c := meta.FindStatusCondition(f.get("m").Status.Conditions, v1alpha1.ConditionTargetLost); c != nil {
				t.Errorf("a migration that goes well has %+v", c)
			}
			f.nodeReady(node.Name, corev1.ConditionUnknown)
			m = f.awaitLost("m", metav1.ConditionTrue, v1alpha1.ReasonTargetNodeNotReady)
			if m.Status.Handover.State != v1alpha1.HandoverCommitted || m.Status.Phase != v1alpha1.PhaseSwitchingOver {
				t.Fatalf("decided on silence alone: %+v", m.Status)
			}
			for _, want := range []string{"is not Ready since", "last reported Restoring", "kubectl migrate resolve m", "out-of-service"} {
				if !strings.Contains(m.Status.Message, want) {
					t.Errorf("the message does not say %q: %s", want, m.Status.Message)
				}
			}
			prove(f, node)
			f.rollsBack("m", dumpedReport(2))
			m = f.awaitPhase("m", v1alpha1.PhaseFailed)
			if h := m.Status.Handover; h.By != writtenBy || h.Reason != v1alpha1.ReasonTargetNodeLost || m.Status.Failure.Reason != v1alpha1.ReasonTargetNodeLost {
				t.Errorf("handover %+v, failure %+v", h, m.Status.Failure)
			}
			f.awaitLost("m", metav1.ConditionFalse, v1alpha1.ReasonTargetResolved)
			f.onlyPod(source)
			f.expectEvent(m, "TargetLost")
		})
	}
}

// The Node was deleted and made anew while no controller ran.
func TestANodeOfTheSameNameIsNotTheSameNode(t *testing.T) {
	f := newFixture(t)
	node := f.ownNode()
	f.runningPod("redis")
	f.create("m", v1alpha1.MigrationSpec{PodName: "redis"})
	f.toCommittedOn("m", node.Name)
	f.stop()
	f.must(testClient.Delete(f.ctx, node), "delete node")
	f.must(testClient.Create(f.ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node.Name}}), "create it again")
	f.nodeReady(node.Name, corev1.ConditionTrue)
	f.start()
	m := f.awaitPhase("m", v1alpha1.PhaseRollingBack)
	if m.Status.Handover.Reason != v1alpha1.ReasonTargetNodeLost || !strings.Contains(m.Status.Failure.Message, "made anew") {
		t.Errorf("handover %+v", m.Status.Handover)
	}
	again := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node.Name}}
	f.must(testClient.Delete(f.ctx, again), "delete node")
}

func TestANodeThatComesBackWasNotLost(t *testing.T) {
	f := newFixture(t)
	node := f.ownNode()
	f.runningPod("redis")
	f.create("m", v1alpha1.MigrationSpec{PodName: "redis"})
	m := f.toCommittedOn("m", node.Name)
	f.nodeReady(node.Name, corev1.ConditionUnknown)
	f.awaitLost("m", metav1.ConditionTrue, v1alpha1.ReasonTargetNodeNotReady)
	f.nodeReady(node.Name, corev1.ConditionTrue)
	f.awaitLost("m", metav1.ConditionFalse, v1alpha1.ReasonTargetFound)
	f.targetReports("m", restoredReport(2))
	f.kubeletRuns(f.pod(m.Status.Target.PodName))
	f.awaitPhase("m", v1alpha1.PhaseCompleting)
}

// What has run on the target is not undone by a program.
func TestAPersonDecidesAboutATargetThatHasRun(t *testing.T) {
	f := newFixture(t)
	node := f.ownNode()
	source := f.runningPod("redis")
	f.create("m", v1alpha1.MigrationSpec{PodName: "redis"})
	f.toCommittedOn("m", node.Name)
	f.nodeReady(node.Name, corev1.ConditionUnknown)
	f.targetReports("m", restoredReport(2))
	f.awaitLost("m", metav1.ConditionTrue, v1alpha1.ReasonTargetNodeNotReady)

	f.resolve("m", v1alpha1.ResolveSource)
	m := f.answered("m", v1alpha1.ResolveSource, v1alpha1.ResolutionRefused)
	if r := m.Status.Resolution; !strings.Contains(r.Message, "could run twice") || r.FieldManager != "a-person" || r.Known == "" {
		t.Errorf("resolution %+v", r)
	}
	f.expectEvent(m, "ResolutionRefused")
	f.resolve("m", v1alpha1.ResolveTarget)
	f.answered("m", v1alpha1.ResolveTarget, v1alpha1.ResolutionRefused)

	f.outOfService(node.Name)
	m = f.awaitLost("m", metav1.ConditionTrue, v1alpha1.ReasonTargetNodeLost)
	if m.Status.Handover.State != v1alpha1.HandoverCommitted {
		t.Fatalf("decided by itself: %+v", m.Status.Handover)
	}
	f.resolve("m", v1alpha1.ResolveSource) // the same again, and now it may
	f.rollsBack("m", dumpedReport(2))
	m = f.awaitPhase("m", v1alpha1.PhaseFailed)
	if m.Status.Failure.Reason != v1alpha1.ReasonResolvedToSource || m.Status.Resolution.Outcome != v1alpha1.ResolutionAccepted {
		t.Errorf("failure %+v, resolution %+v", m.Status.Failure, m.Status.Resolution)
	}
	f.expectEvent(m, "ResolutionAccepted")
	f.onlyPod(source)
}

func TestForceAsksNothing(t *testing.T) {
	for request, phase := range map[v1alpha1.ResolveRequest]v1alpha1.MigrationPhase{
		v1alpha1.ResolveForceSource: v1alpha1.PhaseRollingBack,
		v1alpha1.ResolveForceTarget: v1alpha1.PhaseCompleting,
	} {
		t.Run(string(request), func(t *testing.T) {
			f := newFixture(t)
			node := f.ownNode()
			f.runningPod("redis")
			f.create("m", v1alpha1.MigrationSpec{PodName: "redis"})
			f.toCommittedOn("m", node.Name)
			f.nodeReady(node.Name, corev1.ConditionUnknown)
			f.resolve("m", request)
			m := f.awaitPhase("m", phase)
			if r := m.Status.Resolution; r == nil || !r.Forced || r.Outcome != v1alpha1.ResolutionAccepted {
				t.Errorf("resolution %+v", r)
			}
		})
	}
}

func TestResolvingBeforeTheCommitIsRefused(t *testing.T) {
	f := newFixture(t)
	node := f.ownNode()
	f.runningPod("redis")
	f.create("m", v1alpha1.MigrationSpec{PodName: "redis"})
	f.toPreCopying("m")
	f.resolve("m", v1alpha1.ResolveForceSource)
	m := f.answered("m", v1alpha1.ResolveForceSource, v1alpha1.ResolutionRefused)
	if !strings.Contains(m.Status.Resolution.Message, "cancel") {
		t.Errorf("resolution %+v", m.Status.Resolution)
	}
	// It does not apply to what comes later.
	f.commitOn("m", node.Name)
	f.nodeReady(node.Name, corev1.ConditionUnknown)
	m = f.awaitLost("m", metav1.ConditionTrue, v1alpha1.ReasonTargetNodeNotReady)
	if m.Status.Handover.State != v1alpha1.HandoverCommitted {
		t.Errorf("an old request was carried out: %+v", m.Status.Handover)
	}
}
