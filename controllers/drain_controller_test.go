// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/migration"
)

// memory is a client that has those objects, and the indexes.
func memory(t *testing.T, objects ...client.Object) client.Client {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	return fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).WithStatusSubresource(&v1alpha1.Migration{}).
		WithIndex(&v1alpha1.Migration{}, IndexPods, podNames).
		WithIndex(&corev1.Pod{}, IndexNode, func(o client.Object) []string { return []string{o.(*corev1.Pod).Spec.NodeName} }).Build()
}

func optedIn(name, node string, e v1alpha1.Evacuation) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID("uid-" + name), Annotations: map[string]string{v1alpha1.MarkEvacuation: string(e)}},
		Spec: corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "app", Image: "app"}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{
			{Name: "app", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}}}
}

func TestDrainMarkEvacuates(t *testing.T) {
	marked := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Spec: corev1.NodeSpec{
		Taints: []corev1.Taint{{Key: "ToBeDeletedByClusterAutoscaler", Effect: corev1.TaintEffectNoSchedule}}}}
	cordoned := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n2"}, Spec: corev1.NodeSpec{Unschedulable: true}}
	c := memory(t, marked, cordoned,
		optedIn("a", "n1", v1alpha1.EvacuationRequired), optedIn("b", "n1", v1alpha1.EvacuationBestEffort),
		optedIn("c", "n1", v1alpha1.EvacuationNone), optedIn("d", "n2", v1alpha1.EvacuationRequired))
	r := &DrainReconciler{Client: c, Live: c, Clock: clock.RealClock{}, Retries: migration.DefaultRetries}
	// Twice: what is under way is not begun again.
	for range 2 {
		for node, again := range map[string]time.Duration{"n1": drainInterval, "n2": 0, "n3": 0} {
			result, err := r.Reconcile(t.Context(), reconcile.Request{NamespacedName: types.NamespacedName{Name: node}})
			if err != nil || result.RequeueAfter != again {
				t.Errorf("%s: %+v, %v", node, result, err)
			}
		}
	}
	var list v1alpha1.MigrationList
	if err := c.List(t.Context(), &list); err != nil {
		t.Fatal(err)
	}
	moved := map[string]bool{}
	for _, m := range list.Items {
		moved[m.Spec.PodName] = true
		if m.Labels[v1alpha1.LabelEvacuationNode] != "n1" {
			t.Errorf("labels of %s: %v", m.Name, m.Labels)
		}
	}
	if len(list.Items) != 2 || !moved["a"] || !moved["b"] {
		t.Errorf("evacuated: %v", moved)
	}
}

// Karpenter says on its NodeClaim when the node goes.
func TestNodeClaimsTermination(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	claim := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: "c", UID: "1", Annotations: map[string]string{"karpenter.sh/nodeclaim-termination-timestamp": at.Format(time.RFC3339)}}}
	claim.SetGroupVersionKind(schema.GroupVersionKind{Group: "karpenter.sh", Version: "v1", Kind: "NodeClaim"})
	for name, tc := range map[string]struct {
		owner   string
		drains  bool
		objects []client.Object
		want    time.Time
	}{
		"it says":            {"1", true, []client.Object{claim}, at},
		"nobody drains":      {"1", false, []client.Object{claim}, time.Time{}},
		"another claim":      {"2", true, []client.Object{claim}, time.Time{}},
		"there is none left": {"1", true, nil, time.Time{}},
	} {
		t.Run(name, func(t *testing.T) {
			node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", OwnerReferences: []metav1.OwnerReference{{APIVersion: "karpenter.sh/v1", Kind: "NodeClaim", Name: "c", UID: types.UID(tc.owner)}}}}
			if tc.drains {
				node.Spec.Taints = []corev1.Taint{{Key: "karpenter.sh/disrupted", Effect: corev1.TaintEffectNoSchedule}}
			}
			if got, err := drainDeadline(t.Context(), memory(t, tc.objects...), node); err != nil || !got.Equal(tc.want) {
				t.Errorf("got %s, %v, want %s", got, err, tc.want)
			}
		})
	}
}

// Of several that wait as many may begin as the limit says, and one when the end of
// another leaves its place; a node that is in use again calls them off.
func TestQueueOfTheController(t *testing.T) {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Spec: corev1.NodeSpec{Unschedulable: true}}
	objects := []client.Object{node}
	for i := range 4 {
		m := migration.NewEvacuation(optedIn(fmt.Sprint("p", i), "n1", v1alpha1.EvacuationRequired), migration.Policy{}, 0, true)
		m.UID, m.CreationTimestamp = types.UID(fmt.Sprint("m", i)), metav1.NewTime(time.Unix(int64(i), 0))
		m.Status.Phase = v1alpha1.PhasePending
		m.Status.Source = &v1alpha1.SourceStatus{PodRef: v1alpha1.PodRef{NodeName: "n1"}}
		objects = append(objects, m)
	}
	c := memory(t, objects...)
	r := &MigrationReconciler{Client: c, APIReader: c, Limits: migration.Limits{SourceNode: 2}}
	look := func(i int) *world {
		m := &v1alpha1.Migration{}
		must := func(err error) {
			if err != nil {
				t.Fatal(err)
			}
		}
		must(c.Get(context.Background(), client.ObjectKeyFromObject(objects[i+1]), m))
		w := &world{Observation: migration.Observation{Now: time.Unix(10, 0), Migration: m}}
		if !r.takesPlace(m) && m.Status.Phase == v1alpha1.PhasePending {
			t.Error("it would not be looked at alone")
		}
		must(r.observeQueue(context.Background(), w))
		return w
	}
	enter := func(i int, phase v1alpha1.MigrationPhase) {
		w := look(i)
		w.Migration.Status.Phase = phase
		if err := c.Status().Update(t.Context(), w.Migration); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 2 {
		if w := look(i); w.Queued != nil {
			t.Fatalf("number %d waits: %+v", i, w.Queued)
		}
		enter(i, v1alpha1.PhasePreCopying)
	}
	if q := look(3).Queued; q == nil || q.Position != 2 || q.Waiting != 2 || q.Limit != v1alpha1.ReasonSourceNodeLimit {
		t.Errorf("the last one: %+v", q)
	}
	enter(0, v1alpha1.PhaseSucceeded)
	if w := look(2); w.Queued != nil {
		t.Errorf("a place is free, and it waits: %+v", w.Queued)
	}
	if w := look(3); w.Queued == nil || w.DrainOver {
		t.Errorf("the next one: %+v", w)
	}
	node.Spec.Unschedulable = false
	if err := c.Update(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	if !look(3).DrainOver {
		t.Error("the node is in use again, and it waits on")
	}
}
