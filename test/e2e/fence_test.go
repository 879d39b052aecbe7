// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/test/harness"
)

// probed starts a test server with a liveness probe.
func (s *scenario) probed(name string, period, failures int32) *process {
	s.Helper()
	pod := s.MemhogPod(s.namespace, name, "SIZE_MIB=16", "DIRTY_MIB_PER_SECOND=1", "PATTERN=hot")
	pod.Spec.Containers[0].LivenessProbe = &corev1.Probe{
		ProbeHandler:  corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromInt32(8080)}},
		PeriodSeconds: period, TimeoutSeconds: 1, FailureThreshold: failures,
	}
	return s.follow(s.start(pod))
}

// held makes the pod's processes on its node stand still, and returns what lets
// them go on.
func (s *scenario) held(pod *corev1.Pod) (release func()) {
	s.Helper()
	on := s.look(pod)
	s.must(on.Signal(s.ctx, "STOP"))
	released := false
	release = func() {
		if !released {
			released = true
			s.must(on.Signal(s.ctx, "CONT"))
		}
	}
	s.Cleanup(release)
	return release
}

// A liveness probe that would fire within any freeze: nothing is touched, and
// the refusal says what to change.
func TestImpatientProbe(t *testing.T) {
	s := begin(t)
	p := s.probed("impatient", 1, 3)
	m := s.migration("move", p.pod.Name)
	s.finish(m, v1alpha1.PhaseFailed)
	if f := m.Status.Failure; f == nil || f.Reason != v1alpha1.ReasonProbeBudgetTooShort || !strings.Contains(f.Message, "raise failureThreshold to") {
		t.Errorf("failure %+v, want %s with a remedy", f, v1alpha1.ReasonProbeBudgetTooShort)
	}
	s.stayed(m, p.pod)
	p.unharmed()
}

// The target cannot commit, for its node does not reach the API server. The source goes
// on before its probe, which waits for less than spec.switchoverTimeout, makes kubelet
// restart it.
func TestProbeEndsTheFreeze(t *testing.T) {
	s := begin(t)
	p := s.probed("guarded", 5, 9) // patience 40 s, of which a freeze may take 37: a slow host needs most of that
	m := s.migration("move", p.pod.Name)
	s.await(m, "the source to be frozen", harness.SourceState(v1alpha1.SourceFrozen))
	s.Cleanup(func() { s.must(s.Nodes.HealAPI(context.WithoutCancel(s.ctx))) })
	s.must(s.Nodes.CutAPI(s.ctx, m.Status.Target.NodeName))
	s.await(m, "the hand-over to be aborted", func(m *v1alpha1.Migration) bool { return m.Status.Handover != nil })
	if h := m.Status.Handover; h.State != v1alpha1.HandoverAborted || h.Reason != v1alpha1.ReasonProbeBudgetSpent {
		t.Errorf("hand-over %+v", h)
	}
	s.must(s.Nodes.HealAPI(s.ctx))
	s.finish(m, v1alpha1.PhaseFailed)
	s.stayed(m, p.pod)
	p.unharmed()
}

// The restore is held after the commit until the probe's patience is over, and
// kubelet kills the frozen source. It may not start it from its image: the
// process goes on on the target, once it is let, and nowhere else.
func TestKubeletKillsTheFrozenSource(t *testing.T) {
	s := begin(t)
	p := s.probed("doomed", 5, 9) // patience 40 s, of which a freeze may take 37: a slow host needs most of that
	node := &corev1.Node{}
	s.must(s.Get(s.ctx, client.ObjectKey{Name: p.pod.Spec.NodeName}, node))
	if got := node.Labels[v1alpha1.LabelNodeFence]; got != v1alpha1.FenceNRI {
		t.Fatalf("the node's label %s is %q: its containerd does not ask the agent", v1alpha1.LabelNodeFence, got)
	}
	source := s.look(p.pod)
	m := s.migration("move", p.pod.Name)
	// The manager does not arm the switchover before the wrapper is held.
	s.await(m, "the target to come up", harness.TargetState(v1alpha1.TargetGated, v1alpha1.TargetReleased, v1alpha1.TargetParked))
	manager, err := s.Manager(s.ctx)
	s.must(err)
	arm := s.held(manager)
	s.await(m, "the target to be parked", func(m *v1alpha1.Migration) bool {
		return m.Status.Target != nil && len(m.Status.Target.Containers) > 0 && m.Status.Target.Containers[0].ContainerID != ""
	})
	// The wrapper, not the agent: what it was told before it stands still holds.
	target, err := s.Nodes.Node(m.Status.Target.NodeName)
	s.must(err)
	wrapper := "pgrep -f '[g]odwit-runc.*create.*" + m.Status.Target.Containers[0].ContainerID + "'"
	_, err = target.Output(s.ctx, "kill -STOP $("+wrapper+")")
	s.must(err)
	released := false
	release := func() {
		if !released {
			released = true
			_, err := target.Output(s.ctx, "kill -CONT $("+wrapper+")")
			s.must(err)
		}
	}
	t.Cleanup(release)
	arm()
	s.await(m, "the commit", harness.Committed)

	s.await(m, "the source's agent to see that kubelet killed it", func(m *v1alpha1.Migration) bool {
		return m.Status.Source.Failure != nil && m.Status.Source.Failure.Reason == v1alpha1.ReasonSourceKilled
	})
	// Kubelet has tried to start it afresh, and was refused.
	s.eventually("a refused container of the source", func() (bool, string) {
		out, err := s.KubectlRun(s.ctx, "-n", s.namespace, "get", "events", "--field-selector", "involvedObject.uid="+string(p.pod.UID), "-o", "jsonpath={.items[*].message}")
		s.must(err)
		return strings.Contains(out, "has been handed over"), out
	})
	out, err := source.Output(s.ctx, "pgrep -x memhog || true")
	if err != nil || out != "" {
		t.Errorf("%s runs processes %q, %v", source.Name, out, err)
	}
	if now := s.pod(p.pod.Name); harness.Restarts(now) != 0 {
		t.Errorf("the source was restarted: %s", fmt.Sprint(now.Status.ContainerStatuses))
	}
	release()
	p.continues(s.arrived(m))
}

// A pod with probes of every kind is ready again after each move and is never restarted,
// and its image is the one it ran before, whatever its tag means by then.
func TestProbesAndTheImage(t *testing.T) {
	s := begin(t)
	pod := s.MemhogPod(s.namespace, "probed", "SIZE_MIB=16", "DIRTY_MIB_PER_SECOND=1")
	probe := func(period, failures int32) *corev1.Probe {
		return &corev1.Probe{
			ProbeHandler:  corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromInt32(8080)}},
			PeriodSeconds: period, FailureThreshold: failures, TimeoutSeconds: 5,
		}
	}
	c := &pod.Spec.Containers[0]
	c.StartupProbe, c.ReadinessProbe, c.LivenessProbe = probe(10, 10), probe(1, 1), probe(10, 6)
	s.start(pod)
	p := s.follow(pod)
	image := s.pod(pod.Name).Status.ContainerStatuses[0].ImageID
	for _, name := range []string{"there", "back"} {
		p.continues(s.arrived(s.migration(name, p.pod.Name)))
		if now := p.pod.Status.ContainerStatuses[0].ImageID; now != image {
			t.Errorf("%s: it runs %s, ran %s", name, now, image)
		}
		if want := p.pod.Spec.Containers[0].Image; strings.Contains(image, "@sha256:") && !strings.Contains(want, "@sha256:") {
			t.Errorf("%s: its image is named %s, and it runs %s", name, want, image)
		}
		if got := p.pod.Spec.Containers[0]; got.StartupProbe == nil || got.ReadinessProbe == nil || got.LivenessProbe == nil {
			t.Errorf("%s: a probe is missing", name)
		}
	}
}
