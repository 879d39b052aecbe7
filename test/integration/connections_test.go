// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"errors"
	"maps"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/api/v1alpha1"
)

// How a restore is done that keeps the pod's connections, and one that closes them.
const (
	restoredKept   = "held 1: network-lock skip"
	restoredClosed = "held 1: tcp-close network-lock skip"
)

func keepConnections(m *v1alpha1.Migration) { m.Spec.Connections = v1alpha1.ConnectionsKeep }

// pinned is what a pod asks for that keeps its address.
var pinned = map[string]string{"cni.projectcalico.org/ipAddrs": `["10.0.0.1"]`}

func TestConnectionsAreKept(t *testing.T) {
	for name, tc := range map[string]struct {
		containers []string
		// address that the target gets, and restores that fail.
		address string
		fail    int
		with    []string
		state   v1alpha1.ConnectionsState
		reason  string
	}{
		"kept":                           {[]string{"main"}, "", 0, []string{restoredKept}, v1alpha1.ConnectionsKept, ""},
		"kept, of several containers":    {[]string{"main", "second"}, "", 0, []string{restoredKept, restoredKept}, v1alpha1.ConnectionsKept, ""},
		"the target has another address": {[]string{"main"}, "10.0.0.2", 0, []string{restoredClosed}, v1alpha1.ConnectionsClosed, v1alpha1.ReasonAddressChanged},
		"a restore fails":                {[]string{"main"}, "", 1, []string{restoredKept, restoredKept}, v1alpha1.ConnectionsKept, ""},
		"restores fail":                  {[]string{"main"}, "", 2, []string{restoredKept, restoredKept, restoredClosed}, v1alpha1.ConnectionsClosed, v1alpha1.ReasonConnectionsNotRestored},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t)
			if len(tc.containers) > 1 {
				for _, n := range c.nodes {
					n.fake.AddImage("counter:1")
				}
				c.ledger.chorus, c.ledger.present = tc.containers, c.containersOf
			}
			pod := c.startSetWith(pinned, tc.containers...)
			n := c.node("n2")
			n.address, n.failRestores = tc.address, tc.fail
			m := c.migrate(pod.Name, keepConnections)
			c.awaitPhase(m, v1alpha1.PhaseSucceeded, v1alpha1.PhaseFailed)
			c.keptItsName(m, pod)
			c.runsOn("n2")
			if r := m.Status.Target.Connections; r == nil || r.State != tc.state || r.Reason != tc.reason {
				t.Errorf("connections: %+v: %s", r, describe(m))
			}
			condition := meta.FindStatusCondition(m.Status.Conditions, v1alpha1.ConditionConnectionsKept)
			if condition == nil || (condition.Status == "True") != (tc.state == v1alpha1.ConnectionsKept) {
				t.Errorf("condition: %+v", condition)
			}
			n.mu.Lock()
			if !slices.Equal(n.restoredWith, tc.with) {
				t.Errorf("restored with %q, not %q", n.restoredWith, tc.with)
			}
			n.mu.Unlock()
			if held, err := n.fake.Held(t.Context()); err != nil || len(held) != 0 {
				t.Errorf("held: %v, %v", held, err)
			}
			if calls := c.node("n1").fake.Methods(); slices.Contains(calls, "Reject") || !slices.Contains(calls, "Disown") {
				t.Errorf("the source's agent has told peers: %v", calls)
			}
			if calls := n.fake.Methods(); slices.Index(calls, "Hold") < 0 {
				t.Errorf("nothing was held: %v", calls)
			}
		})
	}
}

// Nothing stays held of a migration that is given up, and a pod whose address nothing
// keeps is not touched.
func TestConnectionsThatAreNotMoved(t *testing.T) {
	c := newCluster(t)
	pod := c.startSetWith(pinned, "main")
	m := c.migrate(pod.Name, keepConnections, func(m *v1alpha1.Migration) { m.Spec.PreCopy.MaxRounds = ptr.To(int32(1)) })
	c.node("n1").fake.SetNextError("Dump", errors.New("broken on purpose"))
	c.awaitPhase(m, v1alpha1.PhaseFailed, v1alpha1.PhaseSucceeded)
	c.staysOnSource(pod, m)
	for _, n := range c.nodes {
		if held, err := n.fake.Held(t.Context()); err != nil || len(held) != 0 {
			t.Errorf("held on %s: %v, %v", n.name, held, err)
		}
	}

	// The address that the pod asks for is another one.
	for _, n := range c.nodes {
		n.address = "10.0.0.7"
	}
	must(t, c.client.Get(c.ctx, client.ObjectKeyFromObject(pod), pod))
	pod.Status.PodIP, pod.Status.PodIPs[0].IP = "10.0.0.7", "10.0.0.7"
	must(t, c.client.Status().Update(c.ctx, pod))
	refused := c.migrate(pod.Name, keepConnections)
	c.awaitPhase(refused, v1alpha1.PhaseFailed, v1alpha1.PhaseSucceeded)
	if f := refused.Status.Failure; f == nil || f.Reason != v1alpha1.ReasonAddressNotPinned {
		t.Errorf("failure: %+v", f)
	}
}

// An agent that is gone has held an address; the next one lets it go when it is over.
func TestAnAddressIsHeldAcrossRestarts(t *testing.T) {
	c := newCluster(t)
	pod := c.startSetWith(pinned, "main")
	n := c.node("n2")
	reached, resume := c.stopAt(told)
	m := c.migrate(pod.Name, keepConnections)
	c.await(m, "the restore", reached)
	if held, err := n.fake.Held(t.Context()); err != nil || !slices.Equal(held, []string{string(m.UID)}) {
		t.Errorf("held: %v, %v", held, err)
	}
	c.agents[n.name].stop()
	resume(true)
	c.agents[n.name] = c.startAgent(n)
	c.awaitPhase(m, v1alpha1.PhaseSucceeded, v1alpha1.PhaseFailed)
	c.keptItsName(m, pod)
	c.runsOn("n2")
	if r := m.Status.Target.Connections; r == nil || r.State != v1alpha1.ConnectionsKept {
		t.Errorf("connections: %+v: %s", r, describe(m))
	}
	c.eventually("nothing is held", func() bool {
		held, err := n.fake.Held(t.Context())
		return err == nil && len(held) == 0
	}, m)
}

// A pod that nobody but the manager makes again keeps its connections as well. Beside it
// nothing asks for its address.
func TestConnectionsOfABarePodAreKept(t *testing.T) {
	c := newCluster(t)
	pod := c.startPod("app", func(p *corev1.Pod) { p.Annotations = maps.Clone(pinned) })
	m := c.migrate(pod.Name, keepConnections)
	c.eventually("the placeholder", func() bool { return c.get(m) && m.Status.Placeholder != nil }, m)
	placeholder := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: c.ns, Name: m.Status.Placeholder.PodName}}
	if c.get(placeholder) && placeholder.Annotations["cni.projectcalico.org/ipAddrs"] != "" {
		t.Errorf("the placeholder asks for the address: %v", placeholder.Annotations)
	}
	c.awaitPhase(m, v1alpha1.PhaseSucceeded, v1alpha1.PhaseFailed)
	c.keptItsName(m, pod)
	c.runsOn("n2")
	now := pod.DeepCopy()
	if !c.get(now) || now.Annotations["cni.projectcalico.org/ipAddrs"] != pinned["cni.projectcalico.org/ipAddrs"] {
		t.Errorf("the pod does not ask for its address: %v", now.Annotations)
	}
	if r := m.Status.Target.Connections; r == nil || r.State != v1alpha1.ConnectionsKept {
		t.Errorf("connections: %+v: %s", r, describe(m))
	}
}
