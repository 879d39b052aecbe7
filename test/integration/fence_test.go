// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"strings"
	"sync"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

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
