// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/migration"
)

// optIn has a pod moved when its node is drained.
func optIn(meta *metav1.ObjectMeta, e v1alpha1.Evacuation) {
	meta.Annotations = map[string]string{v1alpha1.MarkEvacuation: string(e), v1alpha1.MarkTargetDowntime: "10s"}
}

// optedIn starts a test server that has opted in, on a node ("" for any).
func (s *scenario) optedIn(name, node string, e v1alpha1.Evacuation) *process {
	s.Helper()
	pod := s.MemhogPod(s.namespace, name, "SIZE_MIB=32", "DIRTY_MIB_PER_SECOND=1", "PATTERN=hot")
	optIn(&pod.ObjectMeta, e)
	// Not by a selector, which would keep it there.
	pod.Spec.NodeName = node
	return s.follow(s.start(pod))
}

// optedInOf starts workload controllers whose pods have opted in, and returns their pods
// by the controllers' kinds.
func (s *scenario) optedInOf(owners ...client.Object) map[string]*process {
	s.Helper()
	all := map[string]*process{}
	for _, o := range owners {
		kind := strings.TrimPrefix(fmt.Sprintf("%T", o), "*v1.")
		labels := map[string]string{"kind": strings.ToLower(kind)}
		template := s.template()
		template.Labels = labels
		optIn(&template.ObjectMeta, v1alpha1.EvacuationRequired)
		selector := &metav1.LabelSelector{MatchLabels: labels}
		switch o := o.(type) {
		case *appsv1.Deployment:
			o.Spec = appsv1.DeploymentSpec{Selector: selector, Template: template}
		case *appsv1.StatefulSet:
			o.Spec = appsv1.StatefulSetSpec{Selector: selector, ServiceName: "statefulset", Template: template}
		case *batchv1.Job:
			template.Spec.RestartPolicy = corev1.RestartPolicyNever
			o.Spec = batchv1.JobSpec{BackoffLimit: ptr.To(int32(0)), Template: template}
		}
		o.SetNamespace(s.namespace)
		o.SetName(labels["kind"])
		s.must(s.Create(s.ctx, o))
		var pods corev1.PodList
		s.eventually("the pod of the "+kind, func() (bool, string) {
			s.must(s.List(s.ctx, &pods, client.InNamespace(s.namespace), client.MatchingLabels(labels)))
			return len(pods.Items) == 1, fmt.Sprint(podNames(pods.Items))
		})
		s.must(s.AwaitPodReady(s.ctx, &pods.Items[0]))
		all[kind] = s.follow(&pods.Items[0])
	}
	return all
}

// cordon keeps new pods off a node until uncordoned, or the test ends.
func (s *scenario) cordon(node string) {
	s.Helper()
	s.uncordonLater(node)
	_, err := s.KubectlRun(s.ctx, "cordon", node)
	s.must(err)
}

// other is the node that is not this one.
func (s *scenario) other(node string) string {
	s.Helper()
	for _, n := range s.Nodes.Nodes() {
		if n.Name != node {
			return n.Name
		}
	}
	s.Fatal("there is one node only")
	return ""
}

// drain runs kubectl drain as an administrator does, and uncordons the node when the
// test ends. It returns what kubectl prints.
func (s *scenario) drain(node string) string {
	s.Helper()
	s.uncordonLater(node)
	out, err := s.KubectlRun(s.ctx, "drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=10m")
	if err != nil {
		s.Fatalf("kubectl drain: %v\n%s", err, out)
	}
	return out
}

func (s *scenario) uncordonLater(node string) {
	s.Cleanup(func() { s.uncordon(context.WithoutCancel(s.ctx), node) })
}

func (s *scenario) uncordon(ctx context.Context, node string) {
	s.Helper()
	_, err := s.KubectlRun(ctx, "uncordon", node)
	s.must(err)
}

// evacuation is the first Migration that a drain makes of a pod.
func (s *scenario) evacuation(pod *corev1.Pod) *v1alpha1.Migration {
	m := &v1alpha1.Migration{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: "evacuate-" + string(pod.UID)}}
	s.must(s.AwaitFor(s.ctx, 2*time.Minute, m, "the evacuation of "+pod.Name, func(exists bool) (bool, error) { return exists, nil }))
	return m
}

// kubectl drain empties a node. What has opted in arrives alive, pods of workload
// controllers included, what has not is evicted as always, and drain is content.
func TestDrain(t *testing.T) { testDrain(t, "there") }

// Then it empties the other one.
func TestDrainBothWays(t *testing.T) { testDrain(t, "there", "back") }

func testDrain(t *testing.T, ways ...string) {
	s := begin(t)
	s.longer(1 + len(ways))
	bare := s.optedIn("bare", "", v1alpha1.EvacuationRequired)
	node := bare.pod.Spec.NodeName
	s.cordon(s.other(node))
	all := s.optedInOf(&appsv1.Deployment{}, &appsv1.StatefulSet{}, &batchv1.Job{})
	all["nobody"] = bare
	s.uncordon(s.ctx, s.other(node))
	for _, way := range ways {
		s.step(way, func() {
			for _, p := range all {
				p.T = s.T
			}
			other := s.MemhogPod(s.namespace, "not-opted-in-"+way, "SIZE_MIB=8")
			other.Spec.NodeName = node
			s.start(other)
			began := time.Now()
			out := s.drain(node)
			s.Logf("drain took %s", time.Since(began).Round(time.Second))
			if !strings.Contains(out, "drained") {
				s.Errorf("kubectl drain says:\n%s", out)
			}
			for kind, p := range all {
				before := p.pod
				m := s.evacuation(before)
				p.continues(s.arrived(m))
				if m.Status.Policy == nil || m.Status.Policy.Evacuation != v1alpha1.EvacuationRequired {
					s.Errorf("the status records the policy %+v", m.Status.Policy)
				}
				if was, is := metav1.GetControllerOf(before), metav1.GetControllerOf(p.pod); was != nil && (is == nil || is.UID != was.UID) {
					s.Errorf("the pod of the %s belongs to %v now", kind, is)
				}
			}
			err := s.Get(s.ctx, client.ObjectKeyFromObject(other), &corev1.Pod{})
			if !apierrors.IsNotFound(err) {
				s.Errorf("what has not opted in is still there: %v", err)
			}
			s.must(s.AwaitReady(s.ctx))
			s.uncordon(s.ctx, node)
			node = s.other(node)
		})
	}
	job := &batchv1.Job{}
	s.must(s.Get(s.ctx, client.ObjectKey{Namespace: s.namespace, Name: "job"}, job))
	if job.Status.Failed != 0 || job.Status.Active != 1 {
		t.Errorf("the Job counts %+v", job.Status)
	}
}

// Thirty small pods leave a node within the limits, and none is lost.
func TestDrainAtScale(t *testing.T) {
	const many = 30
	s := begin(t)
	s.longer(6)
	var pods []*corev1.Pod
	node := s.Nodes.Nodes()[0].Name
	for i := range many {
		// Thirty that look at the clock two hundred times a second are a node's whole load.
		pod := s.MemhogPod(s.namespace, fmt.Sprintf("pod-%d", i), "SIZE_MIB=4", "DIRTY_MIB_PER_SECOND=0.1", "TICK_MS=500")
		pod.Spec.Containers[0].ReadinessProbe.PeriodSeconds = 20
		optIn(&pod.ObjectMeta, v1alpha1.EvacuationRequired)
		pod.Spec.NodeName = node
		pods = append(pods, pod)
	}
	s.start(pods...)
	var all []*process
	for _, pod := range pods {
		all = append(all, s.follow(s.pod(pod.Name)))
	}
	s.uncordonLater(node)
	began := time.Now()
	out, err := s.KubectlRun(s.ctx, "drain", node, "--ignore-daemonsets", "--force", "--timeout=45m")
	if err != nil {
		s.Fatalf("kubectl drain: %v\n%s", err, out)
	}
	s.Logf("drain took %s", time.Since(began).Round(time.Second))
	var spans []span
	for _, p := range all {
		m := s.evacuation(p.pod)
		p.continues(s.arrived(m))
		spans = append(spans, active(m))
	}
	peak := peakOf(spans)
	s.Logf("at most %d migrations ran side by side", peak)
	// The default of --max-migrations-per-source-node.
	if peak > 2 {
		s.Errorf("%d migrations ran side by side", peak)
	}
}

// span is a time in which something was under way.
type span struct{ from, to time.Time }

// active is when a migration had its place within the limits, by its status.
func active(m *v1alpha1.Migration) span {
	var a span
	for _, p := range m.Status.PhaseTransitionTimestamps {
		switch {
		case p.Phase == v1alpha1.PhasePreparing:
			a.from = p.Time.Time
		case migration.Finished(p.Phase):
			a.to = p.Time.Time
		}
	}
	return a
}

// peakOf is how many spans overlap at most.
func peakOf(spans []span) int {
	peak := 0
	for _, a := range spans {
		n := 0
		for _, b := range spans {
			if !b.from.After(a.from) && b.to.After(a.from) {
				n++
			}
		}
		peak = max(peak, n)
	}
	return peak
}
