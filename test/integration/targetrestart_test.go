// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/api/v1alpha1"
)

// stopAt stops the first wrapper of the target at a point; resume lets it go on,
// or be killed there.
func (c *cluster) stopAt(at point) (reached <-chan struct{}, resume func(lives bool)) {
	come, proceed := make(chan struct{}), make(chan bool, 1)
	var once sync.Once
	n := c.node("n2")
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hook = func(p point) bool {
		lives := true
		if p == at {
			once.Do(func() {
				close(come)
				select {
				case lives = <-proceed:
				case <-c.ctx.Done():
				}
			})
		}
		return lives
	}
	return come, func(lives bool) { proceed <- lives }
}

func (c *cluster) await(m *v1alpha1.Migration, what string, reached <-chan struct{}) {
	c.t.Helper()
	select {
	case <-reached:
	case <-time.After(patiently(20 * time.Second)):
		c.get(m)
		c.t.Fatalf("never came to: %s: %s", what, describe(m))
	}
}

func count(all []string, one string) int {
	n := 0
	for _, s := range all {
		if s == one {
			n++
		}
	}
	return n
}

// oneCreate checks that kubelet made one create for the target, which was told
// once to restore.
func (c *cluster) oneCreate() {
	c.t.Helper()
	n := c.node("n2")
	n.mu.Lock()
	seq := n.seq
	n.mu.Unlock()
	if seq != 2 { // the gate, and the application
		c.t.Errorf("%d containers were created for the target pod", seq)
	}
	if got := count(n.verdicts(), "restore"); got != 1 {
		c.t.Errorf("verdicts: %v", n.verdicts())
	}
}

// staysCommitted checks that the restarted agent leaves a restore under way alone
// for as long as it takes it to look several times.
func (c *cluster) staysCommitted(m *v1alpha1.Migration) {
	c.t.Helper()
	for end := time.Now().Add(1500 * time.Millisecond); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if !c.get(m) || m.Status.Handover == nil || m.Status.Handover.State != v1alpha1.HandoverCommitted {
			c.t.Fatalf("the commit was taken back while a wrapper could restore: %s", describe(m))
		}
		if d := c.node("n2").fake.Discarded(); len(d) != 0 {
			c.t.Fatalf("a restore under way was discarded: %v", d)
		}
		if got := count(c.node("n2").verdicts(), "restore"); got != 1 {
			c.t.Fatalf("restores ordered: %d", got)
		}
	}
}

// holdOnce is a hook that holds its first call.
func (c *cluster) holdOnce(reached chan<- struct{}, release <-chan struct{}) func(context.Context, string) error {
	var once sync.Once
	return func(context.Context, string) error {
		once.Do(func() {
			close(reached)
			<-release
		})
		return nil
	}
}

func TestTargetAgentRestartsWhileACreateIsParked(t *testing.T) {
	c := newCluster(t)
	c.startPod("app")
	// The source is held at its freeze: the create stays parked.
	reached, release := make(chan struct{}), make(chan struct{})
	c.node("n1").fake.SetHook("Freeze", c.holdOnce(reached, release))
	m := c.migrate("app")
	c.await(m, "the freeze", reached)
	for range 2 {
		parks := count(c.node("n2").verdicts(), "park")
		c.restartAgent("n2")
		c.eventually("the create parks again", func() bool { return count(c.node("n2").verdicts(), "park") > parks }, m)
	}
	close(release)
	c.awaitPhase(m, v1alpha1.PhaseSucceeded)
	c.runsOn("n2")
	c.oneCreate()
}

func TestTargetAgentRestartsDuringARestore(t *testing.T) {
	for _, at := range []point{told, restoring, restored} {
		t.Run(string(at), func(t *testing.T) {
			c := newCluster(t)
			c.startPod("app")
			reached, resume := c.stopAt(at)
			m := c.migrate("app")
			c.await(m, string(at), reached)
			c.restartAgent("n2")
			if at != restored {
				c.staysCommitted(m)
			} else {
				// The mark tells, whether or not the wrapper ever does.
				c.eventually("the mark is seen", func() bool { return c.get(m) && m.Status.Target.State == v1alpha1.TargetRestored }, m)
			}
			resume(true)
			c.awaitPhase(m, v1alpha1.PhaseSucceeded)
			if r := m.Status.Target.Containers[0].Restore; r == nil || r.StartTime.IsZero() {
				t.Errorf("how the restore went is not in the status: %s", describe(m))
			}
			c.runsOn("n2")
			c.oneCreate()
		})
	}
}

func TestTargetAgentRestartsAfterAFailedRestore(t *testing.T) {
	for _, lives := range []bool{true, false} {
		name := "the wrapper tells the next agent"
		if !lives {
			name = "nobody is left to tell"
		}
		t.Run(name, func(t *testing.T) {
			c := newCluster(t)
			pod := c.startPod("app")
			c.node("n2").failRestores = 1
			reached, resume := c.stopAt(failed)
			m := c.migrate("app")
			c.await(m, "the failure", reached)
			c.restartAgent("n2")
			c.staysCommitted(m)
			resume(lives)
			c.awaitPhase(m, v1alpha1.PhaseFailed)
			if m.Status.Failure.Reason != v1alpha1.ReasonRestoreFailed {
				t.Errorf("reason %s: %s", m.Status.Failure.Reason, describe(m))
			}
			if d := c.node("n2").fake.Discarded(); len(d) != 1 {
				t.Errorf("discarded %v", d)
			}
			c.staysOnSource(pod, m)
			if got := count(c.node("n2").verdicts(), "restore"); got != 1 {
				t.Errorf("an image set was restored %d times: %v", got, c.node("n2").verdicts())
			}
		})
	}
}

// A wrapper that is killed in mid-restore leaves processes. With or without the
// agent that ordered it, they are ended before the commit is taken back.
func TestWrapperKilledInMidRestore(t *testing.T) {
	for _, restart := range []bool{false, true} {
		for _, deleted := range []bool{false, true} {
			name := map[bool]string{false: "same agent", true: "next agent"}[restart] + map[bool]string{true: ", pod deleted"}[deleted]
			t.Run(name, func(t *testing.T) {
				c := newCluster(t)
				pod := c.startPod("app")
				reached, resume := c.stopAt(restoring)
				m := c.migrate("app")
				c.await(m, "the restore", reached)
				if restart {
					c.restartAgent("n2")
				}
				c.get(m)
				orphan := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: c.ns, Name: m.Status.Target.PodName}}
				if deleted {
					must(t, c.client.Delete(c.ctx, orphan, client.GracePeriodSeconds(1)))
				}
				c.staysCommitted(m)
				resume(false)
				c.awaitPhase(m, v1alpha1.PhaseFailed)
				if d := c.node("n2").fake.Discarded(); len(d) != 1 {
					t.Errorf("discarded %v", d)
				}
				if got := count(c.node("n2").verdicts(), "restore"); got != 1 {
					t.Errorf("verdicts %v", c.node("n2").verdicts())
				}
				c.staysOnSource(pod, m)
			})
		}
	}
}

// A create that was parked before the rollback, and asks again after it, is
// failed: it never starts from its image.
func TestParkedCreateThatAsksAgainAfterTheRollback(t *testing.T) {
	for _, by := range []string{"annotation", "deletion"} {
		t.Run(by, func(t *testing.T) {
			c := newCluster(t)
			pod := c.startPod("app")
			reached, release := make(chan struct{}), make(chan struct{})
			c.node("n1").fake.SetHook("Freeze", c.holdOnce(reached, release))
			m := c.migrate("app")
			c.await(m, "the freeze", reached)
			c.agents[c.node("n2").name].stop()
			c.cancel(m, by)
			close(release)
			c.agents[c.node("n2").name] = c.startAgent(c.node("n2"))
			c.eventually("the end", func() bool { return !c.get(m) || m.Status.Phase == v1alpha1.PhaseCancelled }, m)
			if v := c.node("n2").verdicts(); slices.Contains(v, "pass") || slices.Contains(v, "restore") {
				t.Errorf("verdicts %v", v)
			}
			c.staysOnSource(pod, m)
		})
	}
}

// A wrapper that is killed after the processes were let go has run the pod, and
// the create that it was has failed: containerd ends them. Neither does the agent
// call that restored, nor is the source's part of it taken for undone, nor does
// kubelet's next create start a copy from the image: a person decides.
func TestWrapperKilledAfterTheMark(t *testing.T) {
	for _, restart := range []bool{false, true} {
		t.Run(map[bool]string{false: "same agent", true: "next agent"}[restart], func(t *testing.T) {
			c := newCluster(t)
			pod := c.startPod("app")
			reached, resume := c.stopAt(letGo)
			m := c.migrate("app")
			c.await(m, "the mark", reached)
			if restart {
				c.restartAgent("n2")
			}
			c.staysCommitted(m)
			resume(false)
			c.lost(m)
			c.eventually("kubelet asks again and is refused", func() bool { return count(c.node("n2").verdicts(), "fail") > 1 }, m)
			if v := c.node("n2").verdicts(); slices.Contains(v, "pass") || count(v, "restore") != 1 {
				t.Errorf("verdicts %v", v)
			}
			c.get(m)
			if s := m.Status.Target.State; s == v1alpha1.TargetRestored {
				t.Errorf("reported %s", s)
			}
			c.sourceAfterAll(pod, m)
		})
	}
}

// The node loses power after the pod has run there, and comes back with nothing:
// not even with the knowledge that the set was used.
func TestTheTargetsNodeRestartsAfterTheMark(t *testing.T) {
	for _, at := range []point{told, letGo} {
		t.Run(string(at), func(t *testing.T) {
			c := newCluster(t)
			pod := c.startPod("app")
			reached, resume := c.stopAt(at)
			m := c.migrate("app")
			c.await(m, string(at), reached)
			c.agents[c.node("n2").name].stop()
			resume(false)
			c.reboot("n2")
			c.lost(m)
			c.eventually("the new boot's create is refused", func() bool { return slices.Contains(c.node("n2").verdicts(), "fail") }, m)
			if v := c.node("n2").verdicts(); slices.Contains(v, "pass") || count(v, "restore") != 1 {
				t.Errorf("verdicts %v", v)
			}
			c.sourceAfterAll(pod, m)
		})
	}
}

// lost waits until the migration says that its target is lost, and sees that the
// commit stands and the source is frozen.
func (c *cluster) lost(m *v1alpha1.Migration) {
	c.t.Helper()
	c.eventually("the target is lost", func() bool {
		return c.get(m) && m.Status.Target.TreeGoneAt != nil && meta.IsStatusConditionTrue(m.Status.Conditions, v1alpha1.ConditionTargetLost)
	}, m)
	if m.Status.Phase != v1alpha1.PhaseSwitchingOver || m.Status.Handover.State != v1alpha1.HandoverCommitted {
		c.t.Fatalf("it was decided already: %s", describe(m))
	}
	cs, err := c.node("n2").fake.Containers(c.ctx, string(m.Status.Target.PodUID))
	if err == nil {
		c.t.Errorf("on the target there is %+v", cs)
	}
}

// sourceAfterAll lets a person choose the source, unforced, which then goes on
// from where it was frozen: what the target did is undone.
func (c *cluster) sourceAfterAll(pod *corev1.Pod, m *v1alpha1.Migration) {
	c.t.Helper()
	c.ledger.rewind()
	c.get(m)
	patch := client.MergeFrom(m.DeepCopy())
	m.Annotations = map[string]string{v1alpha1.AnnotationResolve: string(v1alpha1.ResolveSource)}
	must(c.t, c.client.Patch(c.ctx, m, patch))
	c.awaitPhase(m, v1alpha1.PhaseFailed)
	if m.Status.Failure.Reason != v1alpha1.ReasonResolvedToSource {
		c.t.Errorf("failure %+v", m.Status.Failure)
	}
	c.staysOnSource(pod, m)
}
