// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"errors"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/wire"
	"godwit.dev/godwit/node-agent/runtime"
)

// chorus are the containers of a pod with several, as kubelet creates them.
var chorus = []string{"aside", "main", "second"}

// startChorus runs a pod with three containers, one of them a sidecar, and one that has
// ended before. None of them may ever run without the others.
func (c *cluster) startChorus(name string) *corev1.Pod {
	c.t.Helper()
	for _, n := range c.nodes {
		n.fake.AddImage("counter:1")
	}
	c.ledger.chorus, c.ledger.present = chorus, c.containersOf
	pod := c.startPod(name, func(p *corev1.Pod) {
		p.Spec.InitContainers = []corev1.Container{
			{Name: "before", Image: "counter:1"},
			{Name: chorus[0], Image: "counter:1", RestartPolicy: ptr.To(corev1.ContainerRestartPolicyAlways)},
		}
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: chorus[2], Image: "counter:1"})
	})
	c.eventually("all of its containers run", func() bool {
		return c.get(pod) && len(pod.Status.ContainerStatuses) == 2 &&
			!slices.ContainsFunc(pod.Status.ContainerStatuses, func(s corev1.ContainerStatus) bool { return s.State.Running == nil })
	})
	return pod
}

// containersOf are the names of a pod's containers that are there.
func (c *cluster) containersOf(podUID string) []string {
	var names []string
	for _, n := range c.nodes {
		found, err := n.fake.Containers(context.Background(), podUID)
		if err != nil && !errors.Is(err, runtime.ErrNotFound) {
			c.t.Error(err)
		}
		for _, f := range found {
			names = append(names, f.Name)
		}
	}
	slices.Sort(names)
	return names
}

// allRunOn waits until every process of the chorus goes on, on the given node.
func (c *cluster) allRunOn(short string) {
	c.t.Helper()
	node := c.node(short).name
	for _, name := range chorus {
		before, _ := c.ledger.stateOf(name)
		c.eventually(name+" goes on on "+short, func() bool {
			n, by := c.ledger.stateOf(name)
			return n > before && len(by) > len(node) && by[:len(node)] == node
		})
	}
}

// whenRestoring has fn called when the wrapper of a container reaches a point; it says
// whether the wrapper lives on.
func (c *cluster) whenRestoring(container string, at point, fn func() bool) {
	n := c.node("n2")
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hookOf = func(name string, p point) bool {
		return name != container || p != at || fn()
	}
}

func TestSeveralContainersMove(t *testing.T) {
	c := newCluster(t)
	c.startChorus("app")
	name := "app"
	for _, to := range []string{"n2", "n1", "n2"} {
		m := c.migrate(name)
		c.awaitPhase(m, v1alpha1.PhaseSucceeded)
		c.allRunOn(to)
		name = m.Status.Target.PodName
		if s := m.Status; len(s.Source.Containers) != 3 || len(s.Target.Containers) != 3 || s.Downtime == nil {
			t.Errorf("not all containers are in the status: %s", describe(m))
		}
		for _, tc := range m.Status.Target.Containers {
			if tc.Restore == nil || tc.ContainerID == "" {
				t.Errorf("nothing is known of the restore of %s: %s", tc.Name, describe(m))
			}
			if tc.Restore != nil && tc.Restore.StartTime.Add(tc.Restore.Duration.Duration).After(m.Status.Target.RestoredAt.Time) {
				t.Errorf("the pod ran before %s was restored: %s", tc.Name, describe(m))
			}
		}
		pod := &corev1.Pod{}
		pod.Namespace, pod.Name = c.ns, name
		if !c.get(pod) || len(pod.Spec.InitContainers) != 2 || pod.Spec.InitContainers[0].Name != v1alpha1.GateContainerName || pod.Spec.InitContainers[1].Name != chorus[0] {
			t.Errorf("init containers of the target: %+v", pod.Spec.InitContainers)
		}
	}
	got := slices.DeleteFunc(c.node("n1").verdicts(), func(v string) bool { return v == string(wire.Prepare) })
	if !slices.Equal(got, []string{"park", "restore", "park", "restore", "park", "restore"}) {
		t.Errorf("verdicts of the target's creates: %v", got)
	}
}

// Whichever restore fails, those before it are discarded, and nothing has run.
func TestOneOfSeveralRestoresFails(t *testing.T) {
	for _, name := range chorus {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t)
			pod := c.startChorus("app")
			n2 := c.node("n2")
			n2.failRestores, n2.failOf = 1, name
			m := c.migrate("app")
			c.awaitPhase(m, v1alpha1.PhaseFailed)
			if m.Status.Failure.Reason != v1alpha1.ReasonRestoreFailed {
				t.Errorf("reason %s: %s", m.Status.Failure.Reason, describe(m))
			}
			c.staysOnSource(pod, m)
			c.allRunOn("n1")
			if got := n2.fake.Discarded(); len(got) != slices.Index(chorus, name)+1 {
				t.Errorf("discarded: %v", got)
			}
			// And again, for what it is worth.
			m = c.migrate("app")
			c.awaitPhase(m, v1alpha1.PhaseSucceeded)
			c.allRunOn("n2")
		})
	}
}

// A container that stands still is killed, as kubelet does when its probes fail: it has
// not run, and so the source goes on.
func TestStandingContainerIsKilled(t *testing.T) {
	c := newCluster(t)
	pod := c.startChorus("app")
	n2 := c.node("n2")
	m := c.migrate("app")
	now := m.DeepCopy()
	c.whenRestoring(chorus[2], told, func() bool {
		if !c.get(now) {
			return true
		}
		found, err := n2.fake.Containers(c.ctx, string(now.Status.Target.PodUID))
		if err != nil {
			t.Error(err)
		}
		for _, f := range found {
			if f.Name == chorus[1] {
				if err := n2.fake.Kill(c.ctx, f); err != nil {
					t.Error(err)
				}
			}
		}
		return true
	})
	c.awaitPhase(m, v1alpha1.PhaseFailed)
	c.staysOnSource(pod, m)
	c.allRunOn("n1")
}

// The agent is replaced at every step of the restores; the next one goes on from what
// the node shows.
func TestTargetAgentRestartsWhileContainersAreRestored(t *testing.T) {
	for _, container := range chorus {
		for _, at := range []point{told, restoring, restored} {
			t.Run(container+" "+string(at), func(t *testing.T) {
				c := newCluster(t)
				c.startChorus("app")
				c.whenRestoring(container, at, func() bool {
					c.restartAgent("n2")
					return true
				})
				m := c.migrate("app")
				c.awaitPhase(m, v1alpha1.PhaseSucceeded)
				c.allRunOn("n2")
				if got := count(c.node("n2").verdicts(), "restore"); got != len(chorus) {
					t.Errorf("verdicts: %v", c.node("n2").verdicts())
				}
			})
		}
	}
}

// The wrapper is killed: before its container could run, so that all can be taken back.
func TestWrapperOfOneOfSeveralIsKilled(t *testing.T) {
	for _, at := range []point{told, restoring} {
		t.Run(string(at), func(t *testing.T) {
			c := newCluster(t)
			pod := c.startChorus("app")
			c.whenRestoring(chorus[2], at, func() bool { return false })
			m := c.migrate("app")
			c.awaitPhase(m, v1alpha1.PhaseFailed)
			c.staysOnSource(pod, m)
			c.allRunOn("n1")
		})
	}
}

// The agent dies between letting one go and letting the next one go.
func TestTargetAgentRestartsWhileItLetsThemGo(t *testing.T) {
	for n := range chorus {
		t.Run(chorus[n], func(t *testing.T) {
			c := newCluster(t)
			c.startChorus("app")
			reached := make(chan struct{})
			calls := 0
			c.node("n2").fake.SetHook("Thaw", func(ctx context.Context, _ string) error {
				if calls++; calls != n+1 {
					return nil
				}
				close(reached)
				<-ctx.Done()
				return ctx.Err()
			})
			m := c.migrate("app")
			c.await(m, "letting go", reached)
			c.restartAgent("n2")
			c.awaitPhase(m, v1alpha1.PhaseSucceeded)
			c.allRunOn("n2")
		})
	}
}
