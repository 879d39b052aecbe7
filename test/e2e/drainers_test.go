// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/test/harness"
)

// cluster-autoscaler's sequence, as its FAQ and its actuation package describe it: the
// taint ToBeDeletedByClusterAutoscaler, then an eviction of each pod every 10 seconds
// (--max-pod-eviction-time: 2 minutes), and the node is deleted when no pod is left. It
// does not cordon the node. This is a client that does the same, not its code.
func TestClusterAutoscaler(t *testing.T) {
	s := begin(t)
	p := s.optedIn("opted-in", "", v1alpha1.EvacuationRequired)
	name, before := p.pod.Spec.NodeName, p.pod
	s.taint(name, "ToBeDeletedByClusterAutoscaler", fmt.Sprint(time.Now().Unix()))
	said := s.evictEvery(p.pod, 10*time.Second, 2*time.Minute)
	s.Logf("evictions were answered: %q", said)
	m := s.evacuation(before)
	p.continues(s.arrived(m))
}

// Karpenter's sequence: the taint karpenter.sh/disrupted, then evictions by the pod's
// UID with a backoff from 100 ms to 10 s, for as long as it takes.
func TestKarpenter(t *testing.T) {
	s := begin(t)
	p := s.optedIn("opted-in", "", v1alpha1.EvacuationBestEffort)
	before := p.pod
	s.taint(p.pod.Spec.NodeName, "karpenter.sh/disrupted", "")
	// Before anything is evicted: the mark alone begins it.
	m := s.evacuation(before)
	s.evictEvery(p.pod, 0, 5*time.Minute)
	p.continues(s.arrived(m))
}

// taint puts a taint on a node until the test ends.
func (s *scenario) taint(node, key, value string) {
	s.Helper()
	s.Cleanup(func() {
		_, err := s.KubectlRun(context.WithoutCancel(s.ctx), "taint", "node", node, key+"-")
		s.must(err)
	})
	_, err := s.KubectlRun(s.ctx, "taint", "node", node, key+"="+value+":NoSchedule")
	s.must(err)
}

// evictEvery evicts a pod by its name and UID until that is accepted or the pod is
// gone, and returns the answers before. It is accepted when the pod has a deletion
// timestamp already: then it has moved. An interval of 0 backs off from 100 ms to 10 s.
func (s *scenario) evictEvery(pod *corev1.Pod, interval, limit time.Duration) (said []string) {
	s.Helper()
	backoff := wait.Backoff{Duration: interval, Factor: 1, Steps: 1 << 20}
	if interval == 0 {
		backoff = wait.Backoff{Duration: 100 * time.Millisecond, Factor: 2, Steps: 1 << 20, Cap: 10 * time.Second}
	}
	ctx, cancel := context.WithTimeout(s.ctx, limit)
	defer cancel()
	err := backoff.DelayFunc().Until(ctx, true, false, func(ctx context.Context) (bool, error) {
		err := s.SubResource("eviction").Create(ctx, pod.DeepCopy(), &policyv1.Eviction{
			ObjectMeta:    metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name},
			DeleteOptions: &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &pod.UID}}})
		switch {
		case err == nil:
			now := &corev1.Pod{}
			if err := s.Get(ctx, client.ObjectKeyFromObject(pod), now); err != nil {
				return apierrors.IsNotFound(err), client.IgnoreNotFound(err)
			}
			if now.UID == pod.UID && now.DeletionTimestamp == nil {
				return false, fmt.Errorf("the eviction was accepted, and the pod stays")
			}
			return true, nil
		case apierrors.IsNotFound(err), apierrors.IsConflict(err):
			return true, nil
		case apierrors.IsTooManyRequests(err):
			said = append(said, err.Error())
			return false, nil
		}
		return false, err
	})
	if err != nil {
		s.Fatalf("evicting %s: %v; the answers were %q", pod.Name, err, said)
	}
	return said
}

// The manager is restarted in the middle of a drain, in a namespace that does not let
// pods go while no manager answers. kubectl gives up when it hears of that; the
// migration goes on under the next manager, and the next drain finds the pod gone.
func TestManagerRestartsDuringADrain(t *testing.T) {
	s := begin(t)
	_, err := s.KubectlRun(s.ctx, "label", "namespace", s.namespace, "godwit.dev/evictions-without-manager=Fail")
	s.must(err)
	p := s.optedIn("opted-in", "", v1alpha1.EvacuationRequired)
	before := p.pod
	s.uncordonLater(before.Spec.NodeName)
	drain := func() error {
		_, err := s.KubectlRun(s.ctx, "drain", before.Spec.NodeName, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=5m",
			"--pod-selector", harness.LabelApp+"="+before.Labels[harness.LabelApp])
		return err
	}
	drained := make(chan error, 1)
	go func() { drained <- drain() }()
	m := s.evacuation(before)
	s.await(m, "its first round", harness.InPhase(v1alpha1.PhasePreCopying))
	manager, err := s.Manager(s.ctx)
	s.must(err)
	s.must(s.Delete(s.ctx, manager))
	if err := <-drained; err != nil {
		s.Logf("the first drain has given up: %v", err)
	}
	p.continues(s.arrived(m))
	s.must(drain())
}

// A drain that is called off cancels what has not begun.
func TestUncordonCancelsWhatIsQueued(t *testing.T) {
	s := begin(t)
	// Two at a time leave a node, by default.
	processes := []*process{s.optedIn("a", "", v1alpha1.EvacuationRequired)}
	node := processes[0].pod.Spec.NodeName
	for _, name := range []string{"b", "c"} {
		processes = append(processes, s.optedIn(name, node, v1alpha1.EvacuationRequired))
	}
	s.cordon(node)
	_, err := s.KubectlRun(s.ctx, "annotate", "node", node, v1alpha1.AnnotationDrain+"=true")
	s.must(err)
	s.Cleanup(func() {
		_, err := s.KubectlRun(context.WithoutCancel(s.ctx), "annotate", "node", node, v1alpha1.AnnotationDrain+"-")
		s.must(err)
	})
	var queued *v1alpha1.Migration
	s.eventually("one of three to wait", func() (bool, string) {
		var list v1alpha1.MigrationList
		s.must(s.List(s.ctx, &list, client.InNamespace(s.namespace)))
		for i := range list.Items {
			for _, c := range list.Items[i].Status.Conditions {
				if c.Type == v1alpha1.ConditionQueued && c.Status == metav1.ConditionTrue {
					queued = &list.Items[i]
					return c.Reason == v1alpha1.ReasonSourceNodeLimit && strings.Contains(c.Message, "number 1 of 1"), c.Message
				}
			}
		}
		return false, fmt.Sprint(len(list.Items), " Migrations")
	})
	s.uncordon(s.ctx, node)
	s.finish(queued, v1alpha1.PhaseCancelled)
	for _, p := range processes {
		m := s.evacuation(p.pod)
		if m.Name == queued.Name {
			p.unharmed()
			continue
		}
		p.continues(s.arrived(m))
	}
}

// Migrations that fail three times: BestEffort lets the pod be evicted then, Required
// keeps it, and the drain prints why. The pods aim at a downtime that none can have.
func TestFailingEvacuations(t *testing.T) {
	s := begin(t)
	impossible := func(pod *corev1.Pod, e v1alpha1.Evacuation) *corev1.Pod {
		pod.Labels["drain"] = "yes"
		pod.Annotations = map[string]string{v1alpha1.MarkEvacuation: string(e), v1alpha1.MarkTargetDowntime: "1ms",
			v1alpha1.MarkOnStall: string(v1alpha1.OnStallAbort), v1alpha1.MarkMaxRounds: "1"}
		return pod
	}
	required := s.follow(s.start(impossible(s.MemhogPod(s.namespace, "required", "SIZE_MIB=8", "DIRTY_MIB_PER_SECOND=1"), v1alpha1.EvacuationRequired)))
	node := required.pod.Spec.NodeName
	best := s.MemhogPod(s.namespace, "best-effort", "SIZE_MIB=8", "DIRTY_MIB_PER_SECOND=1")
	best.Spec.NodeName = node
	s.start(impossible(best, v1alpha1.EvacuationBestEffort))
	s.uncordonLater(node)
	out, err := s.KubectlRun(s.ctx, "drain", node, "--ignore-daemonsets", "--force", "--pod-selector=drain=yes", "--timeout=5m")
	if err == nil {
		s.Errorf("kubectl drain is content:\n%s", out)
	}
	said := out + fmt.Sprint(err)
	if !strings.Contains(said, "does not converge") || !strings.Contains(said, `attempts to move pod "`+s.namespace+`/required" has ended`) {
		s.Errorf("kubectl drain does not say why:\n%s", said)
	}
	required.unharmed()
	if err := s.Get(s.ctx, client.ObjectKeyFromObject(best), &corev1.Pod{}); !apierrors.IsNotFound(err) {
		s.Errorf("BestEffort is still there: %v", err)
	}
	var list v1alpha1.MigrationList
	s.must(s.List(s.ctx, &list, client.InNamespace(s.namespace), client.MatchingLabels{v1alpha1.LabelEvacuationOf: string(best.UID)}))
	if len(list.Items) != 3 {
		s.Errorf("%d attempts for BestEffort", len(list.Items))
	}
}
