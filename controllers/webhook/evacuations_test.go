// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package webhook

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/migration"
)

func evacuation(e v1alpha1.Evacuation) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Annotations = map[string]string{v1alpha1.MarkEvacuation: string(e)} }
}

func (w *world) evacuations() []v1alpha1.Migration {
	w.Helper()
	var list v1alpha1.MigrationList
	must(w, testClient.List(w.Context(), &list, client.InNamespace(w.ns)))
	return list.Items
}

// fail ends an evacuation as the reconciler would.
func (w *world) fail(name string) {
	w.Helper()
	m := &v1alpha1.Migration{}
	must(w, testClient.Get(w.Context(), client.ObjectKey{Namespace: w.ns, Name: name}, m))
	now := metav1.Now()
	m.Status.Phase, m.Status.Message, m.Status.CompletionTime = v1alpha1.PhaseFailed, "the restore has failed", &now
	must(w, testClient.Status().Update(w.Context(), m))
	w.seen(m)
}

func TestEvictionTriggersOneEvacuation(t *testing.T) {
	w := newWorld(t)
	pod := w.run("db", "n1", evacuation(v1alpha1.EvacuationRequired))
	w.seen(pod)
	must(t, w.evict(pod, &metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}}))
	if got := w.evacuations(); len(got) != 0 {
		t.Fatalf("a dry run has made %d Migrations", len(got))
	}
	var all sync.WaitGroup
	errs := make([]error, 20)
	for i := range errs {
		all.Go(func() { errs[i] = w.evict(pod, nil) })
	}
	all.Wait()
	for _, err := range errs {
		w.refused(err, "Eviction triggered evacuation of pod \""+w.ns+"/db\": migration evacuate-"+string(pod.UID))
	}
	got := w.evacuations()
	if len(got) != 1 || got[0].Spec.PodName != "db" || got[0].Spec.Cause != v1alpha1.CauseDrain || got[0].Spec.TTLSecondsAfterFinished == nil {
		t.Fatalf("Migrations: %+v", got)
	}
	if !w.exists(pod) {
		t.Error("the pod is gone")
	}
}

func TestPolicyOptsIn(t *testing.T) {
	w := newWorld(t)
	p := &v1alpha1.MigrationPolicy{ObjectMeta: metav1.ObjectMeta{Name: w.ns}, Spec: v1alpha1.MigrationPolicySpec{
		NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: w.ns}},
		Evacuation:        v1alpha1.EvacuationBestEffort, Priority: 7}}
	must(t, testClient.Create(t.Context(), p))
	t.Cleanup(func() { must(t, testClient.Delete(context.Background(), p)) })
	w.seen(p)
	ns := &corev1.Namespace{}
	must(t, testClient.Get(t.Context(), client.ObjectKey{Name: w.ns}, ns))
	w.seen(ns)
	w.refused(w.evict(w.pod, nil), "triggered evacuation")
	if got := w.evacuations(); len(got) != 1 || got[0].Spec.Priority != 7 || got[0].Spec.PreCopy.OnStall != v1alpha1.OnStallStopAndCopy {
		t.Errorf("Migrations: %+v", got)
	}
	not := w.run("not", "n1", evacuation(v1alpha1.EvacuationNone))
	must(t, w.evict(not, nil))
	if w.exists(not) {
		t.Error("what has opted out is still there")
	}
}

func TestFailedEvacuations(t *testing.T) {
	for _, e := range []v1alpha1.Evacuation{v1alpha1.EvacuationRequired, v1alpha1.EvacuationBestEffort} {
		t.Run(string(e), func(t *testing.T) {
			w := newWorld(t)
			pod := w.run("db", "n1", evacuation(e))
			var err error
			for attempt := range 3 {
				name := migration.EvacuationName(pod, attempt)
				must(t, wait.PollUntilContextTimeout(t.Context(), 20*time.Millisecond, patience, true, func(context.Context) (bool, error) {
					err = w.evict(pod, nil)
					w.refused(err)
					return slices.ContainsFunc(w.evacuations(), func(m v1alpha1.Migration) bool { return m.Name == name }), nil
				}))
				w.fail(name)
			}
			err = w.evict(pod, nil)
			if e == v1alpha1.EvacuationBestEffort {
				must(t, err)
				if w.exists(pod) {
					t.Error("the pod is still there")
				}
				return
			}
			w.refused(err, "attempts to move pod \""+w.ns+"/db\" has ended: the restore has failed")
			if !w.exists(pod) {
				t.Error("the pod is gone")
			}
		})
	}
}

func TestPodThatCannotBeMoved(t *testing.T) {
	w := newWorld(t)
	host := func(p *corev1.Pod) { p.Spec.HostNetwork = true }
	required, best := w.run("r", "n1", evacuation(v1alpha1.EvacuationRequired), host), w.run("b", "n1", evacuation(v1alpha1.EvacuationBestEffort), host)
	w.refused(w.evict(required, nil), "HostNetwork")
	must(t, w.evict(best, nil))
	if w.exists(best) || !w.exists(required) || len(w.evacuations()) != 0 {
		t.Error("Required goes, BestEffort stays, or something was tried")
	}
}

func TestPodThatWasJustMoved(t *testing.T) {
	w := newWorld(t)
	m := w.migration("m", func(s *v1alpha1.MigrationStatus) {
		now := metav1.Now()
		s.Phase, s.CompletionTime = v1alpha1.PhaseSucceeded, &now
		s.Source.PodUID = "an-earlier-one"
		s.Target = &v1alpha1.TargetStatus{PodRef: v1alpha1.PodRef{NodeName: "n1", PodName: w.pod.Name, PodUID: w.pod.UID}}
	})
	if err := w.evict(w.pod, nil); !apierrors.IsNotFound(err) || !strings.Contains(err.Error(), "migration "+m.Name+" has moved it") {
		t.Errorf("evicting by its name: %v", err)
	}
	if !w.exists(w.pod) {
		t.Fatal("the pod is gone")
	}
	must(t, w.evict(w.pod, &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &w.pod.UID}}))
	if w.exists(w.pod) {
		t.Error("the pod is still there, though it was meant by its UID")
	}
}

// BenchmarkEvictions has 200 evictions at a time answered, through a real API server:
// the first of each pod creates its Migration, the next ones find it.
func BenchmarkEvictions(b *testing.B) {
	needServer(b)
	const parallel = 200
	// What is not answered in time is to be seen as such.
	ns := namespace(b, "godwit.dev/evictions-without-manager")
	pods := make([]*corev1.Pod, parallel)
	for i := range pods {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: fmt.Sprintf("p%d", i)},
			Spec: corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "app", Image: "app"}}}}
		evacuation(v1alpha1.EvacuationRequired)(pod)
		must(b, testClient.Create(b.Context(), pod))
		pod.Status.Phase = corev1.PodRunning
		pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "app", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}
		must(b, testClient.Status().Update(b.Context(), pod))
		pods[i] = pod
	}
	must(b, wait.PollUntilContextTimeout(b.Context(), 5*time.Millisecond, patience, true, func(ctx context.Context) (bool, error) {
		have := &corev1.Pod{}
		err := testCache.Get(ctx, client.ObjectKeyFromObject(pods[parallel-1]), have)
		return err == nil && have.ResourceVersion == pods[parallel-1].ResourceVersion, client.IgnoreNotFound(err)
	}))
	var mu sync.Mutex
	var took []time.Duration
	late := 0
	b.ResetTimer()
	for range b.N {
		var all sync.WaitGroup
		for _, pod := range pods {
			all.Go(func() {
				from := time.Now()
				err := testClient.SubResource("eviction").Create(b.Context(), pod.DeepCopy(), &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: pod.Name}})
				d := time.Since(from)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case apierrors.IsTooManyRequests(err):
					took = append(took, d)
				case apierrors.IsInternalError(err):
					late++ // the API server has not waited for the answer
				default:
					b.Errorf("%s: %v", pod.Name, err)
				}
			})
		}
		all.Wait()
	}
	b.StopTimer()
	b.ReportMetric(float64(late), "unanswered")
	if len(took) == 0 {
		b.Fatal("nothing was answered")
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Milliseconds()), "ms-median")
	b.ReportMetric(float64(took[len(took)*99/100].Milliseconds()), "ms-p99")
}
