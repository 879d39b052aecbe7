// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package owners

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/migration"
)

// statefulSet makes one with its Service, and returns its pods when all run.
func (f *fixture) statefulSet(n int32, change ...func(*appsv1.StatefulSet)) []corev1.Pod {
	f.Helper()
	labels := map[string]string{"app": "db"}
	must(f.T, cluster.client.Create(f.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: f.ns, Name: "db"},
		Spec: corev1.ServiceSpec{Selector: labels, ClusterIP: "None", PublishNotReadyAddresses: true, Ports: []corev1.ServicePort{{Port: 80}}}}))
	set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: f.ns, Name: "db"},
		Spec: appsv1.StatefulSetSpec{Replicas: &n, ServiceName: "db", Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: template(labels)}}
	for _, c := range change {
		c(set)
	}
	must(f.T, cluster.client.Create(f.Context(), set))
	pods := f.running(int(n))
	eventually(f.T, "the StatefulSet to be done", func() (bool, string) {
		s := f.getStatefulSet()
		return s.Status.ReadyReplicas == n && s.Status.ObservedGeneration == s.Generation && s.Status.CurrentRevision == s.Status.UpdateRevision, fmt.Sprintf("%+v", s.Status)
	})
	return pods
}

func (f *fixture) getStatefulSet() *appsv1.StatefulSet {
	f.Helper()
	s := &appsv1.StatefulSet{}
	must(f.T, cluster.client.Get(f.Context(), client.ObjectKey{Namespace: f.ns, Name: "db"}, s))
	return s
}

func (f *fixture) changeStatefulSet(change func(*appsv1.StatefulSet)) {
	f.Helper()
	s := f.getStatefulSet()
	patch := client.MergeFrom(s.DeepCopy())
	change(s)
	must(f.T, cluster.client.Patch(f.Context(), s, patch))
}

// uids of pods, by name.
func uids(pods []corev1.Pod) map[string]types.UID {
	all := map[string]types.UID{}
	for _, p := range pods {
		all[p.Name] = p.UID
	}
	return all
}

// toReplaced plays a migration of a pod that keeps its name until that pod is there again.
func (f *fixture) toReplaced(name string) *v1alpha1.Migration {
	f.Helper()
	f.toSwitchingOver(name)
	f.source(name, v1alpha1.SourceDumped)
	f.commit(name)
	return f.againThere(name)
}

func (f *fixture) againThere(name string) *v1alpha1.Migration {
	f.Helper()
	return f.await(name, "the pod to be there again", func(m *v1alpha1.Migration) bool {
		return m.Status.Phase == v1alpha1.PhaseReplacing && m.Status.Target.PodName == m.Spec.PodName
	})
}

// restored plays the rest, once the pod is there again.
func (f *fixture) restored(name string) *v1alpha1.Migration {
	f.Helper()
	f.source(name, v1alpha1.SourceKilled)
	f.target(name, v1alpha1.TargetRestored)
	m := f.get(name)
	f.retry(func() error { return runs(f.Context(), f.pod(m.Spec.PodName)) })
	f.awaitPhase(name, v1alpha1.PhaseCompleting)
	f.source(name, v1alpha1.SourceCleaned)
	return f.awaitPhase(name, v1alpha1.PhaseSucceeded)
}

func TestPodOfAStatefulSetMoves(t *testing.T) {
	f := newFixture(t)
	pods := f.statefulSet(3)
	source := pods[1]
	f.migrate("m", source.Name)
	m := f.toSwitchingOver("m")
	placeholder := f.pod(m.Status.Target.PodName)
	if m.Status.Handoff != v1alpha1.HandoffSameName || m.Status.Placeholder == nil || m.Status.Placeholder.PodUID != placeholder.UID ||
		m.Status.Owner == nil || m.Status.Owner.Revision != source.Labels[appsv1.ControllerRevisionHashLabelKey] {
		t.Errorf("status = %+v, owner %+v", m.Status, m.Status.Owner)
	}
	if len(placeholder.OwnerReferences) != 0 || !maps.Equal(placeholder.Labels, map[string]string{v1alpha1.LabelMigration: string(m.UID)}) {
		t.Errorf("the placeholder = %+v", placeholder.ObjectMeta)
	}
	if ready := f.endpoints(); ready[placeholder.Name] || len(ready) != 3 {
		t.Errorf("endpoints: %v", ready)
	}
	m = f.toReplaced("m")
	target := f.pod(source.Name)
	if target.UID == source.UID || target.UID != m.Status.Target.PodUID || m.Status.Target.NodeName != "n2" {
		t.Errorf("target %s, status %+v", target.UID, m.Status.Target)
	}
	if ref := metav1.GetControllerOf(target); ref == nil || ref.Kind != "StatefulSet" || target.Labels["app"] != "db" ||
		target.Labels[appsv1.StatefulSetPodNameLabel] != source.Name || target.Labels[appsv1.ControllerRevisionHashLabelKey] != m.Status.Owner.Revision {
		t.Errorf("target = %+v", target.ObjectMeta)
	}
	if len(target.Spec.InitContainers) != 1 || *target.Spec.RuntimeClassName != v1alpha1.RuntimeClassName || target.Spec.Hostname != source.Name ||
		target.Spec.Containers[0].Image != "registry.example/app@sha256:"+digest {
		t.Errorf("target = %+v", target.Spec)
	}
	f.restored("m")
	left := f.running(3)
	if now := uids(left); now[pods[0].Name] != pods[0].UID || now[pods[2].Name] != pods[2].UID || now[source.Name] != target.UID {
		t.Errorf("left: %v", now)
	}
	f.nothingBut(append(names(pods), placeholder.Name, source.Name), []string{source.Name, placeholder.Name})

	// And again, from where it is now.
	f.migrate("again", source.Name)
	m = f.toReplaced("again")
	second := m.Status.Placeholder.PodName
	f.restored("again")
	if got := f.pod(source.Name); len(got.Spec.InitContainers) != 1 || got.Spec.Hostname != source.Name || got.UID == target.UID {
		t.Errorf("second target = %+v", got)
	}
	f.nothingBut(append(names(pods), placeholder.Name, source.Name, second, source.Name), []string{source.Name, placeholder.Name, source.Name, second})
	s := f.getStatefulSet()
	if s.Status.Replicas != 3 || s.Status.CurrentRevision != s.Status.UpdateRevision || s.Generation != 1 {
		t.Errorf("StatefulSet = %+v", s.Status)
	}
}

func TestPodOfAStatefulSetIsRolledBack(t *testing.T) {
	f := newFixture(t)
	pods := f.statefulSet(2)
	f.migrate("m", pods[0].Name)
	m := f.toSwitchingOver("m")
	m2 := f.rollBack("m")
	if m2.Status.Phase != v1alpha1.PhaseCancelled {
		t.Errorf("phase %s", m2.Status.Phase)
	}
	now := f.pod(pods[0].Name)
	if now.UID != pods[0].UID || !maps.Equal(now.Labels, pods[0].Labels) || now.DeletionTimestamp != nil {
		t.Errorf("the source is %+v", now.ObjectMeta)
	}
	f.nothingBut(append(names(pods), m.Status.Target.PodName), []string{m.Status.Target.PodName})
}

// The manager is replaced at every step.
func TestPodOfAStatefulSetMovesUnderRestartsOfTheManager(t *testing.T) {
	f := newFixture(t)
	pods := f.statefulSet(2)
	f.migrate("m", pods[0].Name)
	m := f.toSwitchingOver("m")
	f.restart()
	f.source("m", v1alpha1.SourceDumped)
	f.stop()
	f.commit("m")
	f.restart()
	f.againThere("m")
	f.restart()
	f.restored("m")
	f.nothingBut(append(names(pods), m.Status.Target.PodName, pods[0].Name), []string{pods[0].Name, m.Status.Target.PodName})
}

// Without the webhook the API server makes no pod of the name, and does not freeze one.
func TestNameIsKeptWithoutTheWebhook(t *testing.T) {
	f := newFixture(t)
	pods := f.statefulSet(2)
	f.migrate("m", pods[1].Name)
	m := f.toSwitchingOver("m")
	f.stop()
	f.stop = cluster.runManager(t, f.ns, false)
	f.source("m", v1alpha1.SourceDumped)
	f.commit("m")
	eventually(t, "the StatefulSet to be refused", func() (bool, string) {
		var events corev1.EventList
		must(t, cluster.client.List(t.Context(), &events, client.InNamespace(f.ns)))
		for _, e := range events.Items {
			if e.InvolvedObject.Kind == "StatefulSet" && strings.Contains(e.Message, "this one would start afresh") {
				return true, ""
			}
		}
		return false, fmt.Sprint(len(events.Items))
	})
	err := cluster.client.Get(t.Context(), client.ObjectKey{Namespace: f.ns, Name: pods[1].Name}, &corev1.Pod{})
	if !apierrors.IsNotFound(err) {
		t.Errorf("the pod: %v", err)
	}
	f.restart()
	f.againThere("m")
	f.restored("m")
	f.nothingBut(append(names(pods), m.Status.Target.PodName, pods[1].Name), []string{pods[1].Name, m.Status.Target.PodName})

	f.stop()
	f.stop = cluster.runManager(t, f.ns, false)
	f.migrate("unseen", pods[0].Name)
	f.toPreCopying("unseen")
	f.await("unseen", "the webhook to be missed", func(m *v1alpha1.Migration) bool {
		return strings.Contains(m.Status.Message, "asks the manager's admission webhook")
	})
	f.restart()
	f.toSwitchingOver("unseen")
	f.rollBack("unseen")
}

// A restore that is not begun when its pod is deleted goes into the next one.
func TestNextPodOfTheNameIsTheTarget(t *testing.T) {
	f := newFixture(t)
	pods := f.statefulSet(2)
	f.migrate("m", pods[0].Name)
	m := f.toReplaced("m")
	first := m.Status.Target.PodUID
	must(t, client.IgnoreNotFound(cluster.client.Delete(t.Context(), f.pod(pods[0].Name))))
	m = f.await("m", "the next pod", func(m *v1alpha1.Migration) bool { return m.Status.Target.PodUID != first })
	if m.Status.Target.NodeName != "n2" {
		t.Errorf("target = %+v", m.Status.Target)
	}
	f.restored("m")
	f.running(2)
	f.nothingBut(append(names(pods), m.Status.Placeholder.PodName, pods[0].Name, pods[0].Name), []string{pods[0].Name, m.Status.Placeholder.PodName, pods[0].Name})
}

// What has come in between lets the source go on, as long as it is not given up.
func TestStatefulSetThatWouldNotMakeThePodAgain(t *testing.T) {
	for name, c := range map[string]struct {
		change func(f *fixture)
		reason string
	}{
		"a rollout": {func(f *fixture) {
			f.changeStatefulSet(func(s *appsv1.StatefulSet) { s.Spec.Template.Spec.Containers[0].Image = "app:v2" })
			eventually(t, "the rollout to be seen", func() (bool, string) {
				s := f.getStatefulSet()
				return s.Status.CurrentRevision != s.Status.UpdateRevision, fmt.Sprintf("%+v", s.Status)
			})
		}, v1alpha1.ReasonRolloutInProgress},
		"gone": {func(f *fixture) {
			must(t, cluster.client.Delete(t.Context(), f.getStatefulSet(), client.PropagationPolicy(metav1.DeletePropagationOrphan)))
		}, v1alpha1.ReasonOwnerChanged},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			// It does not touch its pods by itself.
			pods := f.statefulSet(2, func(s *appsv1.StatefulSet) { s.Spec.UpdateStrategy.Type = appsv1.OnDeleteStatefulSetStrategyType })
			f.migrate("m", pods[0].Name)
			f.toSwitchingOver("m")
			f.source("m", v1alpha1.SourceDumped)
			f.stop()
			c.change(f)
			f.commit("m")
			f.restart()
			m := f.await("m", "the commit to be taken back", func(m *v1alpha1.Migration) bool {
				return m.Status.Phase == v1alpha1.PhaseRollingBack || m.Status.Phase == v1alpha1.PhaseReplacing
			})
			if m.Status.Failure == nil || m.Status.Failure.Reason != c.reason {
				t.Errorf("failure %+v in %s", m.Status.Failure, m.Status.Phase)
			}
			f.source("m", v1alpha1.SourceCleaned)
			f.awaitPhase("m", v1alpha1.PhaseFailed)
			if now := f.pod(pods[0].Name); now.UID != pods[0].UID || now.DeletionTimestamp != nil {
				t.Errorf("the source is %+v", now.ObjectMeta)
			}
		})
	}
}

func TestRolloutOfAStatefulSetIsWaitedFor(t *testing.T) {
	f := newFixture(t)
	pods := f.statefulSet(2, func(s *appsv1.StatefulSet) {
		s.Spec.UpdateStrategy = appsv1.StatefulSetUpdateStrategy{Type: appsv1.RollingUpdateStatefulSetStrategyType,
			RollingUpdate: &appsv1.RollingUpdateStatefulSetStrategy{Partition: ptr.To(int32(2))}}
	})
	f.changeStatefulSet(func(s *appsv1.StatefulSet) { s.Spec.Template.Spec.Containers[0].Image = "app:v2" })
	eventually(t, "the rollout to be seen", func() (bool, string) {
		s := f.getStatefulSet()
		return s.Status.CurrentRevision != s.Status.UpdateRevision, fmt.Sprintf("%+v", s.Status)
	})
	f.migrate("m", pods[0].Name)
	f.await("m", "the rollout to be waited for", func(m *v1alpha1.Migration) bool {
		return m.Status.Phase == v1alpha1.PhasePending && strings.Contains(m.Status.Message, "being rolled out")
	})
	f.changeStatefulSet(func(s *appsv1.StatefulSet) { s.Spec.Template.Spec.Containers[0].Image = "app:v1" })
	m := f.toTarget("m")
	if m.Status.Target.PodName != migration.TargetPodName(m) {
		t.Errorf("target %s", m.Status.Target.PodName)
	}
	f.rollBack("m")
	f.nothingBut(append(names(pods), m.Status.Target.PodName), []string{m.Status.Target.PodName})
}
