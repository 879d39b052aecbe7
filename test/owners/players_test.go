// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package owners

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/api/v1alpha1"
)

// fixture is a namespace with a manager, a scheduler and kubelets of its own.
type fixture struct {
	*testing.T
	ns   string
	stop func() // the manager

	mu sync.Mutex
	// gone and made are the names of the pods that came and went, in order.
	made, gone []string
	// wrong is what the watch has seen that must not be.
	wrong []string
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{T: t, ns: "test-" + rand.String(6)}
	must(t, cluster.client.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: f.ns}}))
	f.stop = cluster.runManager(t, f.ns, true)
	f.play()
	return f
}

// restart replaces the manager.
func (f *fixture) restart() {
	f.Helper()
	f.stop()
	f.stop = cluster.runManager(f.T, f.ns, true)
}

// play watches the namespace's pods: it records them, and does what a scheduler
// and kubelets do. Pods of a Migration are placed where they may be and wait behind
// their gate, all others run on n1.
func (f *fixture) play() {
	ctx, cancel := context.WithCancel(context.Background())
	w, err := cluster.client.Watch(ctx, &corev1.PodList{}, client.InNamespace(f.ns))
	must(f.T, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		seen := map[types.UID]bool{}
		for e := range w.ResultChan() {
			pod, ok := e.Object.(*corev1.Pod)
			if !ok {
				continue
			}
			f.record(e.Type, pod, seen)
			if err := f.kubelet(ctx, e.Type, pod); err != nil && ctx.Err() == nil && !expected(err) {
				f.note("kubelet: %v", err)
			}
		}
	}()
	f.Cleanup(func() {
		cancel()
		<-done
	})
}

// expected: the pod has changed since the event, and there will be another.
func expected(err error) bool {
	return client.IgnoreNotFound(err) == nil || strings.Contains(err.Error(), "modified") || strings.Contains(err.Error(), "Conflict") || strings.Contains(err.Error(), "already assigned")
}

func (f *fixture) note(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wrong = append(f.wrong, fmt.Sprintf(format, args...))
}

func (f *fixture) record(event watch.EventType, pod *corev1.Pod, seen map[types.UID]bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case strings.HasPrefix(pod.Name, canary):
	case event == watch.Deleted:
		f.gone = append(f.gone, pod.Name)
	case !seen[pod.UID]:
		seen[pod.UID] = true
		f.made = append(f.made, pod.Name)
	}
	for _, c := range pod.Status.ContainerStatuses {
		if c.RestartCount > 0 {
			f.wrong = append(f.wrong, fmt.Sprintf("%s was restarted", pod.Name))
		}
	}
}

func (f *fixture) kubelet(ctx context.Context, event watch.EventType, pod *corev1.Pod) error {
	target := pod.Labels[v1alpha1.LabelMigration] != ""
	switch {
	case event == watch.Deleted:
		return nil
	case pod.DeletionTimestamp != nil:
		return cluster.client.Delete(ctx, pod, client.GracePeriodSeconds(0), client.Preconditions{UID: &pod.UID})
	case pod.Spec.NodeName == "":
		node := "n1"
		if target {
			terms := pod.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
			node = terms[0].MatchExpressions[len(terms[0].MatchExpressions)-1].Values[0]
		}
		return cluster.client.SubResource("binding").Create(ctx, pod, &corev1.Binding{Target: corev1.ObjectReference{Kind: "Node", Name: node}})
	case pod.Status.Phase == corev1.PodPending && !target:
		return runs(ctx, pod)
	}
	return nil
}

// runs reports a pod as running and ready.
func runs(ctx context.Context, pod *corev1.Pod) error {
	return podStatus(ctx, pod, corev1.PodRunning, true, corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()}})
}

// ends reports a pod as ended.
func ends(ctx context.Context, pod *corev1.Pod, phase corev1.PodPhase, code int32) error {
	return podStatus(ctx, pod, phase, false, corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
		ExitCode: code, ContainerID: "containerd://4567", StartedAt: metav1.NewTime(time.Now().Add(-time.Minute)), FinishedAt: metav1.Now()}})
}

func podStatus(ctx context.Context, pod *corev1.Pod, phase corev1.PodPhase, ready bool, state corev1.ContainerState) error {
	patch := client.MergeFrom(pod.DeepCopy())
	pod.Status.Phase = phase
	condition := corev1.ConditionFalse
	if ready {
		condition = corev1.ConditionTrue
	}
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: condition, LastTransitionTime: metav1.Now()}}
	address := fmt.Sprintf("10.0.%d.%d", len(pod.Name), 1+int(pod.UID[0])%250)
	pod.Status.PodIP, pod.Status.PodIPs = address, []corev1.PodIP{{IP: address}}
	pod.Status.ContainerStatuses = nil
	for _, c := range pod.Spec.Containers {
		pod.Status.ContainerStatuses = append(pod.Status.ContainerStatuses, corev1.ContainerStatus{
			Name: c.Name, Image: c.Image, ImageID: "registry.example/app@sha256:" + digest, ContainerID: "containerd://4567", Ready: ready, State: state})
	}
	return cluster.client.Status().Patch(ctx, pod, patch)
}

func (f *fixture) pod(name string) *corev1.Pod {
	f.Helper()
	pod := &corev1.Pod{}
	must(f.T, cluster.client.Get(f.Context(), client.ObjectKey{Namespace: f.ns, Name: name}, pod))
	return pod
}

func (f *fixture) pods() []corev1.Pod {
	f.Helper()
	var list corev1.PodList
	must(f.T, cluster.client.List(f.Context(), &list, client.InNamespace(f.ns)))
	return list.Items
}

func (f *fixture) migrate(name, pod string) *v1alpha1.Migration {
	f.Helper()
	m := &v1alpha1.Migration{ObjectMeta: metav1.ObjectMeta{Namespace: f.ns, Name: name}, Spec: v1alpha1.MigrationSpec{PodName: pod}}
	must(f.T, cluster.client.Create(f.Context(), m))
	return m
}

func (f *fixture) get(name string) *v1alpha1.Migration {
	f.Helper()
	m := &v1alpha1.Migration{}
	must(f.T, cluster.client.Get(f.Context(), client.ObjectKey{Namespace: f.ns, Name: name}, m))
	return m
}

func (f *fixture) await(name, what string, cond func(*v1alpha1.Migration) bool) *v1alpha1.Migration {
	f.Helper()
	var m *v1alpha1.Migration
	eventually(f.T, what, func() (bool, string) {
		m = f.get(name)
		return cond(m), fmt.Sprintf("%+v owner %+v", m.Status, m.Status.Owner)
	})
	return m
}

func (f *fixture) awaitPhase(name string, phase v1alpha1.MigrationPhase) *v1alpha1.Migration {
	f.Helper()
	return f.await(name, name+" to be "+string(phase), func(m *v1alpha1.Migration) bool { return m.Status.Phase == phase })
}

const digest = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

// The agents.

func (f *fixture) report(name, side, manager string, report any) {
	f.Helper()
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(report)
	must(f.T, err)
	u := &unstructured.Unstructured{Object: map[string]any{"status": map[string]any{side: fields}}}
	u.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("Migration"))
	u.SetNamespace(f.ns)
	u.SetName(name)
	must(f.T, cluster.client.Status().Apply(f.Context(), client.ApplyConfigurationFromUnstructured(u), client.FieldOwner(manager), client.ForceOwnership))
}

func (f *fixture) source(name string, state v1alpha1.SourceState) {
	f.Helper()
	rounds := int32(2)
	r := v1alpha1.SourceReport{State: state}
	if state != v1alpha1.SourceChecked {
		r.Round = &rounds
	}
	at := metav1.NewMicroTime(time.Now())
	switch state {
	case v1alpha1.SourceDumped, v1alpha1.SourceKilled, v1alpha1.SourceCleaned:
		r.FrozenAt, r.DumpedAt, r.ManifestDigest = &at, &at, digest
	}
	f.report(name, "source", v1alpha1.FieldManagerSource, &r)
}

func (f *fixture) target(name string, state v1alpha1.TargetState) {
	f.Helper()
	at := metav1.NewMicroTime(time.Now())
	r := v1alpha1.TargetReport{State: state, VerifiedRounds: 2, Containers: []v1alpha1.TargetContainerStatus{{Name: "app", ContainerID: "4567"}}}
	if state == v1alpha1.TargetRestored {
		r.RestoreStartedAt, r.RestoredAt = &at, &at
	}
	f.report(name, "target", v1alpha1.FieldManagerTarget, &r)
}

func (f *fixture) commit(name string) {
	f.Helper()
	body, err := json.Marshal([]map[string]any{
		{"op": "test", "path": "/status/handover", "value": nil},
		{"op": "add", "path": "/status/handover", "value": v1alpha1.Handover{State: v1alpha1.HandoverCommitted, By: "target/n2", ManifestDigest: digest, Time: metav1.NowMicro()}},
	})
	must(f.T, err)
	must(f.T, cluster.client.Status().Patch(f.Context(), &v1alpha1.Migration{ObjectMeta: metav1.ObjectMeta{Namespace: f.ns, Name: name}}, client.RawPatch(types.JSONPatchType, body)))
}

func (f *fixture) toPreCopying(name string) {
	f.Helper()
	m := f.await(name, name+" to begin", func(m *v1alpha1.Migration) bool {
		return m.Status.Phase == v1alpha1.PhasePreparing || m.Status.Phase == v1alpha1.PhasePreCopying
	})
	if m.Status.Phase == v1alpha1.PhasePreparing {
		f.source(name, v1alpha1.SourceChecked)
	}
	f.awaitPhase(name, v1alpha1.PhasePreCopying)
}

// toTarget plays a migration until its target is there.
func (f *fixture) toTarget(name string) *v1alpha1.Migration {
	f.Helper()
	f.toPreCopying(name)
	f.source(name, v1alpha1.SourceConverged)
	return f.await(name, "a target of "+name, func(m *v1alpha1.Migration) bool {
		return m.Status.Target != nil && m.Status.Target.PodUID != "" && m.Status.Target.NodeName != ""
	})
}

func (f *fixture) toSwitchingOver(name string) *v1alpha1.Migration {
	f.Helper()
	if m := f.get(name); m.Status.Phase == v1alpha1.PhaseSwitchingOver {
		return m
	}
	f.toTarget(name)
	f.target(name, v1alpha1.TargetParked)
	return f.awaitPhase(name, v1alpha1.PhaseSwitchingOver)
}

// toSucceeded plays the rest; run is what kubelet says of the restored pod.
func (f *fixture) toSucceeded(name string, run func(context.Context, *corev1.Pod) error) *v1alpha1.Migration {
	f.Helper()
	m := f.toSwitchingOver(name)
	f.source(name, v1alpha1.SourceDumped)
	f.commit(name)
	f.target(name, v1alpha1.TargetRestored)
	f.retry(func() error { return run(f.Context(), f.pod(m.Status.Target.PodName)) })
	f.await(name, "the source to go", func(m *v1alpha1.Migration) bool {
		return !f.exists(m.Status.Source.PodRef)
	})
	f.source(name, v1alpha1.SourceCleaned)
	return f.awaitPhase(name, v1alpha1.PhaseSucceeded)
}

func (f *fixture) retry(do func() error) {
	f.Helper()
	eventually(f.T, "a write", func() (bool, string) {
		err := do()
		return err == nil, fmt.Sprint(err)
	})
}

func (f *fixture) exists(ref v1alpha1.PodRef) bool {
	f.Helper()
	pod := &corev1.Pod{}
	err := cluster.client.Get(f.Context(), client.ObjectKey{Namespace: f.ns, Name: ref.PodName}, pod)
	if client.IgnoreNotFound(err) != nil {
		f.Fatal(err)
	}
	return err == nil && pod.UID == ref.PodUID
}

// rollBack cancels a migration and plays its end.
func (f *fixture) rollBack(name string) *v1alpha1.Migration {
	f.Helper()
	f.cancel(name)
	return f.rollsBack(name)
}

func (f *fixture) cancel(name string) {
	f.Helper()
	m := f.get(name)
	patch := client.MergeFrom(m.DeepCopy())
	m.Annotations = map[string]string{v1alpha1.AnnotationCancel: "true"}
	must(f.T, cluster.client.Patch(f.Context(), m, patch))
}

func (f *fixture) rollsBack(name string) *v1alpha1.Migration {
	f.Helper()
	f.awaitPhase(name, v1alpha1.PhaseRollingBack)
	f.source(name, v1alpha1.SourceCleaned)
	return f.await(name, "the end", func(m *v1alpha1.Migration) bool {
		return m.Status.Phase == v1alpha1.PhaseFailed || m.Status.Phase == v1alpha1.PhaseCancelled
	})
}

// nothingBut checks which pods came and went since the fixture began, once the
// controllers had time to be wrong.
func (f *fixture) nothingBut(made, gone []string) {
	f.Helper()
	f.settle()
	f.mu.Lock()
	defer f.mu.Unlock()
	if !sameSet(f.made, made) || !sameSet(f.gone, gone) {
		f.Errorf("pods made: %v, want %v; gone: %v, want %v", f.made, made, f.gone, gone)
	}
	for _, w := range f.wrong {
		f.Errorf("seen: %s", w)
	}
}

func sameSet(got, want []string) bool {
	if len(got) != len(want) {
		return false
	}
	seen := map[string]int{}
	for _, g := range got {
		seen[g]++
	}
	for _, w := range want {
		seen[w]--
	}
	for _, n := range seen {
		if n != 0 {
			return false
		}
	}
	return true
}
