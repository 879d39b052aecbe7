// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/api/v1alpha1"
)

// liveness gives the pod a liveness probe, which the simulated kubelet does not
// run: the tests do what it would.
func liveness(period, failures int32) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].LivenessProbe = &corev1.Probe{
			ProbeHandler:  corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(80)}},
			PeriodSeconds: period, FailureThreshold: failures,
		}
	}
}

func (n *simNode) refusals() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.refused
}

// killFrozen is kubelet's killing of the pod's container on this node.
func (n *simNode) killFrozen(pod *corev1.Pod) {
	n.t.Helper()
	cs, err := n.fake.Containers(context.Background(), string(pod.UID))
	must(n.t, err)
	must(n.t, n.fake.Signal(context.Background(), cs[0], int(syscall.SIGKILL)))
}

func TestAnImpatientProbeIsRefused(t *testing.T) {
	c := newCluster(t)
	pod := c.startPod("app", liveness(1, 3))
	m := c.migrate("app")
	c.awaitPhase(m, v1alpha1.PhaseFailed)
	if f := m.Status.Failure; f == nil || f.Reason != v1alpha1.ReasonProbeBudgetTooShort || !strings.Contains(f.Message, "failureThreshold") {
		t.Errorf("failure %+v", f)
	}
	c.staysOnSource(pod, m)
}

// targetGone stops the target's agent at the freeze.
func (c *cluster) targetGone() {
	var once sync.Once
	c.node("n1").fake.SetHook("Freeze", func(context.Context, string) error {
		once.Do(c.agents[c.node("n2").name].stop)
		return nil
	})
}

// The target is lost in the freeze: the source goes on before its probes give up
// on it, though the spec would let it wait longer.
func TestTheProbesEndTheFreeze(t *testing.T) {
	c := newCluster(t)
	pod := c.startPod("app", liveness(1, 6))
	c.targetGone()
	m := c.migrate("app")
	c.awaitPhase(m, v1alpha1.PhaseRollingBack)
	s := m.Status.Source
	if h := m.Status.Handover; h == nil || h.State != v1alpha1.HandoverAborted || h.Reason != v1alpha1.ReasonProbeBudgetSpent || !strings.HasPrefix(h.By, "source/") {
		t.Errorf("hand-over %+v", h)
	} else if after := h.Time.Sub(s.FrozenAt.Time); s.ProbeBudget == nil || after < s.ProbeBudget.Switchover.Duration || after > s.ProbeBudget.Patience.Duration {
		t.Errorf("aborted %s after the freeze, with a budget of %+v", after, s.ProbeBudget)
	}
	c.agents[c.node("n2").name] = c.startAgent(c.node("n2"))
	c.awaitPhase(m, v1alpha1.PhaseFailed)
	c.staysOnSource(pod, m)
	if n := c.node("n1").refusals(); n != 0 {
		t.Errorf("%d creates were refused, though nothing had been killed", n)
	}
}

// Kubelet kills the frozen source after the commit. Nothing starts it afresh,
// and the target goes on.
func TestTheSourceIsKilledAfterTheCommit(t *testing.T) {
	c := newCluster(t)
	pod := c.startPod("app", liveness(10, 3))
	n1 := c.node("n1")
	reached, resume := c.stopAt(told)
	m := c.migrate("app")
	c.await(m, "the restore", reached)
	n1.killFrozen(pod)
	c.eventually("the source agent to say that the source was killed", func() bool {
		return c.get(m) && m.Status.Source.Failure != nil && m.Status.Source.Failure.Reason == v1alpha1.ReasonSourceKilled
	}, m)
	c.eventually("kubelet to be refused a new container again and again", func() bool { return n1.refusals() >= 3 }, m)
	c.eventually("the message to tell it", func() bool { return c.get(m) && strings.Contains(m.Status.Message, "kubelet killed") }, m)
	resume(true)
	c.awaitPhase(m, v1alpha1.PhaseSucceeded)
	c.runsOn("n2")
}

// The same with a restore that fails: the process is lost, which the failure
// says, and kubelet may start the source's container from its image.
func TestTheSourceIsKilledAndTheRestoreFails(t *testing.T) {
	c := newCluster(t)
	pod := c.startPod("app", liveness(10, 3))
	n1, n2 := c.node("n1"), c.node("n2")
	n2.failRestores = 1
	reached, resume := c.stopAt(told)
	m := c.migrate("app")
	c.await(m, "the restore", reached)
	n1.killFrozen(pod)
	c.eventually("kubelet to be refused a new container", func() bool { return n1.refusals() > 0 }, m)
	c.ledger.lost()
	resume(true)
	c.awaitPhase(m, v1alpha1.PhaseFailed)
	if f := m.Status.Failure; f == nil || f.Reason != v1alpha1.ReasonRestoreFailed || !strings.Contains(f.Message, "kubelet killed") {
		t.Errorf("failure %+v", f)
	}
	c.staysOnSource(pod, m)
}

// Kubelet kills the frozen source before the commit: the migration fails for
// that reason, and only then may the container start anew, on its network.
func TestTheSourceIsKilledBeforeTheCommit(t *testing.T) {
	c := newCluster(t)
	pod := c.startPod("app", liveness(30, 3))
	c.targetGone()
	m := c.migrate("app")
	c.eventually("the final dump", func() bool {
		return c.get(m) && m.Status.Source != nil && m.Status.Source.State == v1alpha1.SourceDumped
	}, m)
	c.ledger.lost()
	c.node("n1").killFrozen(pod)
	c.awaitPhase(m, v1alpha1.PhaseRollingBack)
	if h := m.Status.Handover; h == nil || h.Reason != v1alpha1.ReasonSourceKilled {
		t.Errorf("hand-over %+v", h)
	}
	c.agents[c.node("n2").name] = c.startAgent(c.node("n2"))
	c.awaitPhase(m, v1alpha1.PhaseFailed)
	c.staysOnSource(pod, m)
	c.eventually("the new container's network", func() bool {
		calls := c.node("n1").fake.Methods()
		for i := len(calls) - 1; i >= 0; i-- {
			if calls[i] == "Connect" {
				return true
			}
			if calls[i] == "Isolate" {
				return false
			}
		}
		return false
	}, m)
}

// powerOff ends the source's node and starts it again: its kubelet finds a pod
// without containers before the agent is there.
func (c *cluster) powerOff(m *v1alpha1.Migration, pod *corev1.Pod) {
	c.t.Helper()
	n1 := c.node("n1")
	c.agents[n1.name].stop()
	n1.killFrozen(pod)
	before := n1.refusals()
	c.eventually("kubelet to be refused a container while no agent is there", func() bool { return n1.refusals() >= before+3 }, m)
	c.reboot("n1")
}

// The source's node loses power after the commit and comes back before the source
// pod is deleted. Nothing begins there afresh, and the target goes on.
func TestTheSourcesNodeRestartsAfterTheCommit(t *testing.T) {
	c := newCluster(t)
	pod := c.startPod("app")
	reached, resume := c.stopAt(told)
	m := c.migrate("app")
	c.await(m, "the restore", reached)
	c.powerOff(m, pod)
	c.eventually("the source agent to say what happened", func() bool {
		return c.get(m) && m.Status.Source.Failure != nil && strings.Contains(m.Status.Source.Failure.Message, "node restarted")
	}, m)
	before := c.node("n1").refusals()
	c.eventually("kubelet to be refused still", func() bool { return c.node("n1").refusals() >= before+3 }, m)
	resume(true)
	c.awaitPhase(m, v1alpha1.PhaseSucceeded)
	c.runsOn("n2")
	c.eventually("the record to go", func() bool {
		left, err := c.node("n1").fake.Guarded()
		return err == nil && len(left) == 0
	}, m)
}

// The same before the commit: the process is lost, and once nobody can commit any
// more the container starts from its image.
func TestTheSourcesNodeRestartsBeforeTheCommit(t *testing.T) {
	c := newCluster(t)
	pod := c.startPod("app")
	c.targetGone()
	m := c.migrate("app")
	c.eventually("the final dump", func() bool {
		return c.get(m) && m.Status.Source != nil && m.Status.Source.State == v1alpha1.SourceDumped
	}, m)
	c.ledger.lost()
	c.powerOff(m, pod)
	c.awaitPhase(m, v1alpha1.PhaseRollingBack)
	if h := m.Status.Handover; h == nil || h.Reason != v1alpha1.ReasonSourceKilled {
		t.Errorf("hand-over %+v", h)
	}
	c.agents[c.node("n2").name] = c.startAgent(c.node("n2"))
	c.awaitPhase(m, v1alpha1.PhaseFailed)
	c.staysOnSource(pod, m)
}

// The node restarts while its Migration is removed by force: whether the target
// runs is not known, and a person decides.
func TestTheSourcesNodeRestartsAndTheMigrationIsGone(t *testing.T) {
	c := newCluster(t)
	pod := c.startPod("app")
	n1 := c.node("n1")
	c.targetGone()
	m := c.migrate("app")
	c.eventually("the final dump", func() bool {
		return c.get(m) && m.Status.Source != nil && m.Status.Source.State == v1alpha1.SourceDumped
	}, m)
	c.ledger.lost()
	c.controller.stop()
	c.agents[n1.name].stop()
	n1.killFrozen(pod)
	patch := client.MergeFrom(m.DeepCopy())
	m.Finalizers = nil
	must(t, c.client.Patch(c.ctx, m, patch))
	must(t, client.IgnoreNotFound(c.client.Delete(c.ctx, m)))
	c.reboot("n1")
	before := n1.refusals()
	c.eventually("kubelet to be refused until somebody decides", func() bool { return n1.refusals() >= before+5 })
	if left, err := n1.fake.Guarded(); err != nil || len(left) != 1 {
		t.Fatalf("guarded are %+v, %v", left, err)
	}
	c.get(pod)
	was := client.MergeFrom(pod.DeepCopy())
	pod.Annotations = map[string]string{v1alpha1.AnnotationResolve: string(v1alpha1.ResolveSource)}
	must(t, c.client.Patch(c.ctx, pod, was))
	c.restartAgent("n1") // which looks at once
	c.eventually("the pod to run again", func() bool {
		cs, err := n1.fake.Containers(c.ctx, string(pod.UID))
		return err == nil && len(cs) == 1
	})
}

// A pod that was moved has a gate, which kubelet runs again in a new sandbox. It is
// opened also when the Migration is long gone.
func TestAMovedPodStartsAgain(t *testing.T) {
	c := newCluster(t)
	c.startPod("app")
	m := c.migrate("app")
	c.awaitPhase(m, v1alpha1.PhaseSucceeded)
	c.runsOn("n2")
	n2 := c.node("n2")
	target := &corev1.Pod{}
	must(t, c.client.Get(c.ctx, client.ObjectKey{Namespace: c.ns, Name: m.Status.Target.PodName}, target))
	opened := func(when string) {
		t.Helper()
		done := make(chan bool, 1)
		go func() { done <- n2.runGate(c.ctx, target, nil) }()
		select {
		case ok := <-done:
			if !ok {
				t.Errorf("%s, the gate did not end by itself", when)
			}
		case <-time.After(patiently(20 * time.Second)):
			t.Fatalf("%s, nobody opens the gate", when)
		}
	}
	c.agents[n2.name].stop()
	c.reboot("n2")
	opened("after a restart of the node")
	must(t, client.IgnoreNotFound(c.client.Delete(c.ctx, m)))
	c.eventually("the Migration to be gone", func() bool { return !c.get(m) })
	c.agents[n2.name].stop()
	c.reboot("n2")
	opened("after another, without the Migration")
}
