// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/migration"
	"godwit.dev/godwit/test/harness"
)

// history is what the API has said of a namespace's pods and endpoints.
type history struct {
	*scenario
	stop func()

	mu         sync.Mutex
	made, gone []string
	wrong      []string
}

// watchPods records every event of the namespace's pods, from now until the test
// ends. A Job's failures and containers' restarts are wrong whenever they appear,
// and so is a ready endpoint that goes away before its pod is frozen.
func (s *scenario) watchPods(source *corev1.Pod, moves string) *history {
	s.Helper()
	ctx, cancel := context.WithCancel(s.ctx)
	h := &history{scenario: s}
	var done sync.WaitGroup
	follow := func(list client.ObjectList, see func(watch.Event)) {
		w, err := s.Watch(ctx, list, client.InNamespace(s.namespace))
		s.must(err)
		done.Go(func() {
			for e := range w.ResultChan() {
				if ctx.Err() != nil {
					return // what was cut off is no event
				}
				h.mu.Lock()
				see(e)
				h.mu.Unlock()
			}
			if ctx.Err() == nil {
				h.mu.Lock()
				h.wrong = append(h.wrong, "a watch has ended")
				h.mu.Unlock()
			}
		})
	}
	seen := map[types.UID]bool{}
	follow(&corev1.PodList{}, func(e watch.Event) {
		pod, ok := e.Object.(*corev1.Pod)
		switch {
		case !ok:
			h.wrong = append(h.wrong, fmt.Sprintf("%s %v", e.Type, e.Object))
			return
		case e.Type == watch.Deleted:
			h.gone = append(h.gone, pod.Name)
		case !seen[pod.UID]:
			seen[pod.UID] = true
			h.made = append(h.made, pod.Name)
		}
		// A create that is taken back counts as a restart of a container that never ran.
		ran := slices.ContainsFunc(pod.Status.ContainerStatuses, func(c corev1.ContainerStatus) bool { return migration.HasRun(&c, "") })
		if n := harness.Restarts(pod); n != 0 && ran {
			h.wrong = append(h.wrong, fmt.Sprintf("%s was restarted", pod.Name))
		}
	})
	follow(&batchv1.JobList{}, func(e watch.Event) {
		if job, ok := e.Object.(*batchv1.Job); ok && job.Status.Failed > 0 {
			h.wrong = append(h.wrong, fmt.Sprintf("Job %s counts %d failures", job.Name, job.Status.Failed))
		}
	})
	was := false
	follow(&discoveryv1.EndpointSliceList{}, func(e watch.Event) {
		slice, ok := e.Object.(*discoveryv1.EndpointSlice)
		if !ok {
			return
		}
		is := slices.ContainsFunc(slice.Endpoints, func(e discoveryv1.Endpoint) bool {
			return e.TargetRef != nil && e.TargetRef.UID == source.UID && ptr.Deref(e.Conditions.Ready, false)
		})
		if was && !is {
			m := &v1alpha1.Migration{}
			if err := s.Get(ctx, client.ObjectKey{Namespace: s.namespace, Name: moves}, m); err != nil || m.Status.Source == nil || m.Status.Source.FrozenAt == nil {
				h.wrong = append(h.wrong, fmt.Sprintf("the Service has lost the source before it was frozen (%v)", err))
			}
		}
		was = is
	})
	h.stop = func() {
		cancel()
		done.Wait()
	}
	s.Cleanup(h.stop)
	return h
}

// nothingBut checks which pods came and went while it was watched.
func (h *history) nothingBut(made, gone []string) {
	h.Helper()
	h.stop()
	for _, list := range [][]string{h.made, h.gone, made, gone} {
		slices.Sort(list)
	}
	if !slices.Equal(h.made, made) || !slices.Equal(h.gone, gone) {
		h.Errorf("pods seen: %v, want %v; gone: %v, want %v", h.made, made, h.gone, gone)
	}
	for _, w := range h.wrong {
		h.Errorf("seen: %s", w)
	}
}

func (s *scenario) template() corev1.PodTemplateSpec {
	pod := s.MemhogPod(s.namespace, "web", "SIZE_MIB=32", "DIRTY_MIB_PER_SECOND=1", "PATTERN=hot")
	return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}}, Spec: pod.Spec}
}

// deployment starts one with a Service and a budget, and returns its pods.
func (s *scenario) deployment(n int32) []corev1.Pod {
	s.Helper()
	labels := map[string]string{"app": "web"}
	s.must(s.Create(s.ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: "web"},
		Spec: corev1.ServiceSpec{Selector: labels, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}}}}))
	s.must(s.Create(s.ctx, &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: "web"},
		Spec: policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: labels}, MaxUnavailable: ptr.To(intstr.FromInt32(1))}}))
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: "web"},
		Spec: appsv1.DeploymentSpec{Replicas: &n, Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: s.template()}}
	s.must(s.Create(s.ctx, d))
	s.must(s.AwaitFor(s.ctx, scenarioTimeout, d, "the Deployment", func(bool) (bool, error) { return d.Status.AvailableReplicas == n, nil }))
	return s.podsOf(int(n))
}

// podsOf returns the namespace's pods, when there are so many.
func (s *scenario) podsOf(n int) []corev1.Pod {
	s.Helper()
	var pods corev1.PodList
	s.eventually(fmt.Sprintf("%d pods", n), func() (bool, string) {
		s.must(s.List(s.ctx, &pods, client.InNamespace(s.namespace)))
		return len(pods.Items) == n, fmt.Sprint(podNames(pods.Items))
	})
	return pods.Items
}

func podNames(pods []corev1.Pod) (names []string) {
	for _, p := range pods {
		names = append(names, p.Name)
	}
	return names
}

// A Deployment's pod moves, and nobody but its Service's clients notices: the
// ReplicaSet makes one pod, which is the target, and loses one. Then it moves back.
func TestOwnersDeployment(t *testing.T) {
	s := begin(t)
	pods := s.deployment(2)
	p := s.follow(&pods[0])
	h := s.watchPods(p.pod, "there")
	m := s.migration("there", p.pod.Name)
	p.continues(s.arrived(m))
	if ref := metav1.GetControllerOf(p.pod); ref == nil || ref.UID != metav1.GetControllerOf(&pods[0]).UID {
		t.Errorf("the target's owners are %+v", p.pod.OwnerReferences)
	}
	left := s.podsOf(2)
	h.nothingBut(append(podNames(pods), p.pod.Name), []string{pods[0].Name})

	h = s.watchPods(p.pod, "back")
	there := p.pod.Name
	m = s.migration("back", there)
	p.continues(s.arrived(m))
	s.podsOf(2)
	h.nothingBut(append(podNames(left), p.pod.Name), []string{there})
	s.nothingLeft(m)
}

// A migration that is cancelled while its source is frozen puts everything back.
func TestOwnersRollback(t *testing.T) {
	s := begin(t)
	pods := s.deployment(2)
	p := s.follow(&pods[0])
	h := s.watchPods(p.pod, "m")
	m := s.migration("m", p.pod.Name)
	s.await(m, "the freeze", harness.SourceState(v1alpha1.SourceFrozen))
	s.must(s.Cancel(s.ctx, m))
	s.finish(m, v1alpha1.PhaseCancelled)
	s.stayed(m, &pods[0])
	p.unharmed()
	s.podsOf(2)
	now, was := s.pod(pods[0].Name), pods[0]
	if !equality.Semantic.DeepEqual(now.Labels, was.Labels) || !equality.Semantic.DeepEqual(now.Annotations, was.Annotations) ||
		!equality.Semantic.DeepEqual(now.OwnerReferences, was.OwnerReferences) {
		t.Errorf("the source is %+v, was %+v", now.ObjectMeta, was.ObjectMeta)
	}
	h.nothingBut(append(podNames(pods), m.Status.Target.PodName), []string{m.Status.Target.PodName})
}

// A Job that forgives no failure has its pods moved, one is rolled back, and all are
// counted when they end.
func TestOwnersJob(t *testing.T) { testJob(t, batchv1.NonIndexedCompletion) }

// The same with indexes: the target takes over the source's.
func TestOwnersIndexedJob(t *testing.T) { testJob(t, batchv1.IndexedCompletion) }

func testJob(t *testing.T, mode batchv1.CompletionMode) {
	s := begin(t)
	job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: "batch"}, Spec: batchv1.JobSpec{
		Parallelism: ptr.To(int32(2)), Completions: ptr.To(int32(2)), CompletionMode: &mode, BackoffLimit: ptr.To(int32(0)), Template: s.template()}}
	job.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
	s.must(s.Create(s.ctx, job))
	s.must(s.AwaitFor(s.ctx, scenarioTimeout, job, "the Job's pods", func(bool) (bool, error) { return ptr.Deref(job.Status.Ready, 0) == 2, nil }))
	pods := s.podsOf(2)
	p, other := s.follow(&pods[0]), s.follow(&pods[1])
	h := s.watchPods(p.pod, "move")

	back := s.migration("cancelled", other.pod.Name)
	s.await(back, "the freeze", harness.SourceState(v1alpha1.SourceFrozen))
	s.must(s.Cancel(s.ctx, back))
	s.finish(back, v1alpha1.PhaseCancelled)
	s.stayed(back, &pods[1])
	other.unharmed()

	m := s.migration("move", p.pod.Name)
	p.continues(s.arrived(m))
	for _, pod := range []*corev1.Pod{p.pod, other.pod} {
		s.must(s.look(pod).Signal(s.ctx, "TERM"))
	}
	s.must(s.AwaitFor(s.ctx, scenarioTimeout, job, "the Job's end", func(bool) (bool, error) {
		return slices.ContainsFunc(job.Status.Conditions, func(c batchv1.JobCondition) bool {
			return (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue
		}), nil
	}))
	if job.Status.Succeeded != 2 || job.Status.Failed != 0 {
		t.Errorf("the Job counts %+v", job.Status)
	}
	h.nothingBut(append(podNames(pods), p.pod.Name, back.Status.Target.PodName), []string{pods[0].Name, back.Status.Target.PodName})
}

// A pod of a controller that Godwit does not know how to ask for a replacement is
// refused, before anything is touched.
func TestOwnersRefused(t *testing.T) {
	s := begin(t)
	labels := map[string]string{"app": "web"}
	d := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: "web"},
		Spec: appsv1.DaemonSetSpec{Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: s.template()}}
	s.must(s.Create(s.ctx, d))
	s.must(s.AwaitFor(s.ctx, scenarioTimeout, d, "the DaemonSet", func(bool) (bool, error) { return d.Status.NumberReady == 2, nil }))
	pod := s.podsOf(2)[0]
	m := s.migration("m", pod.Name)
	s.finish(m, v1alpha1.PhaseFailed)
	if f := m.Status.Failure; f == nil || f.Reason != v1alpha1.ReasonOwnedPod || !strings.Contains(f.Message, "DaemonSet") {
		t.Errorf("failure = %+v", f)
	}
	s.stayed(m, &pod)
}
