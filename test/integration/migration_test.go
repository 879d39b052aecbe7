// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/node-agent/runtime"
)

func describe(m *v1alpha1.Migration) string {
	b, err := yaml.Marshal(m.Status)
	if err != nil {
		return err.Error()
	}
	return "\n" + string(b)
}

// runsOn waits until the process has done more steps, on the given node.
func (c *cluster) runsOn(short string) {
	c.t.Helper()
	before, _ := c.ledger.state()
	want := c.node(short).name
	c.eventually("the process goes on on "+short, func() bool {
		n, by := c.ledger.state()
		return n > before && len(by) > len(want) && by[:len(want)] == want
	})
}

func TestAPodMoves(t *testing.T) {
	c := newCluster(t)
	pod := c.startPod("app")
	m := c.migrate("app")
	c.awaitPhase(m, v1alpha1.PhaseSucceeded)
	c.runsOn("n2")

	if c.get(pod) {
		t.Errorf("the source pod still exists")
	}
	s := m.Status
	if s.Downtime == nil || s.Downtime.Total.Duration <= 0 {
		t.Errorf("no downtime measured: %s", describe(m))
	}
	if len(s.Source.Containers) != 1 || len(s.Source.Containers[0].Rounds) < 1 || s.Source.Containers[0].FinalDump == nil {
		t.Errorf("rounds and final dump are not in the status: %s", describe(m))
	}
	if left, err := c.node("n1").fake.Containers(context.Background(), string(pod.UID)); !errors.Is(err, runtime.ErrNotFound) {
		t.Errorf("the source is still there: %v %v", left, err)
	}
	if left, err := c.imagesLeft(); err != nil || len(left) > 0 {
		t.Errorf("images left on the volume: %v %v", left, err)
	}
	if got := c.node("n2").verdicts(); !slices.Equal(got, []string{"park", "prepare", "restore"}) {
		t.Errorf("verdicts of the target's creates: %v", got)
	}
	if p := s.Target.PreparedAt; p == nil || p.After(s.Source.FrozenAt.Time) {
		t.Errorf("the pod was frozen at %v, before its restore was prepared: %v", s.Source.FrozenAt, p)
	}
}

func TestThereAndBackAgain(t *testing.T) {
	c := newCluster(t)
	c.startPod("app")
	m := c.migrate("app")
	c.awaitPhase(m, v1alpha1.PhaseSucceeded)
	back := c.migrate(m.Status.Target.PodName)
	c.awaitPhase(back, v1alpha1.PhaseSucceeded)
	c.runsOn("n1")
}

func TestStopAndCopy(t *testing.T) {
	c := newCluster(t)
	c.startPod("app")
	m := c.migrate("app", func(m *v1alpha1.Migration) { m.Spec.PreCopy.MaxRounds = ptr.To(int32(0)) })
	c.awaitPhase(m, v1alpha1.PhaseSucceeded)
	if r := m.Status.Source.Containers[0].Rounds; len(r) != 0 {
		t.Errorf("pre-copied %d rounds", len(r))
	}
	c.runsOn("n2")
}

func TestANodeWithoutDirtyTrackingDoesASingleDump(t *testing.T) {
	c := newCluster(t)
	n1 := c.node("n1").fake
	p, err := n1.Probe(context.Background())
	must(t, err)
	p.DirtyTracking = false
	n1.SetProbe(p)
	c.startPod("app")
	m := c.migrate("app")
	c.awaitPhase(m, v1alpha1.PhaseSucceeded)
	if d := m.Status.Source.DirtyTracking; d == nil || *d {
		t.Errorf("the status does not say that dirty pages are not tracked: %s", describe(m))
	}
	c.runsOn("n2")
}

// What kills the source when it was handed over thaws its container for that: it must not
// go on for a moment.
func TestASourceThatWasHandedOverIsHeld(t *testing.T) {
	c := newCluster(t)
	c.startPod("app")
	m := c.migrate("app")
	c.awaitPhase(m, v1alpha1.PhaseSucceeded)
	methods := c.node("n1").fake.Methods()
	if dump, hold := slices.Index(methods, "Dump"), slices.Index(methods, "FreezePod"); hold < dump || dump < 0 {
		t.Errorf("the source was not held after its final dump: %v", methods)
	}
}

func TestDryRunTouchesNothing(t *testing.T) {
	c := newCluster(t)
	c.startPod("app")
	m := c.migrate("app", func(m *v1alpha1.Migration) { m.Spec.DryRun = true })
	c.awaitPhase(m, v1alpha1.PhaseSucceeded)
	for _, method := range c.node("n1").fake.Methods() {
		if method == "PreDump" || method == "Freeze" || method == "Isolate" {
			t.Errorf("a dry run called %s", method)
		}
	}
	c.runsOn("n1")
}

// TestFailuresBeforeTheCommitLeaveTheSourceRunning breaks every step of the
// source once.
func TestFailuresBeforeTheCommitLeaveTheSourceRunning(t *testing.T) {
	for _, method := range []string{"PreDump", "DirtyBytes", "Isolate", "Freeze", "Dump", "Pack", "FreezePod", "Inspect"} {
		t.Run(method, func(t *testing.T) {
			c := newCluster(t)
			pod := c.startPod("app")
			c.node("n1").fake.SetNextError(method, errors.New("broken on purpose"))
			m := c.migrate("app")
			c.awaitPhase(m, v1alpha1.PhaseFailed, v1alpha1.PhaseSucceeded)
			if method == "DirtyBytes" && m.Status.Phase == v1alpha1.PhaseSucceeded {
				return // counting is tried again; it changes nothing
			}
			if m.Status.Phase != v1alpha1.PhaseFailed || m.Status.Failure == nil {
				t.Fatalf("want Failed with a reason: %s", describe(m))
			}
			c.staysOnSource(pod, m)
		})
	}
}

// staysOnSource checks that the source goes on as if nothing had been.
func (c *cluster) staysOnSource(pod *corev1.Pod, m *v1alpha1.Migration) {
	c.t.Helper()
	c.runsOn("n1")
	if !c.get(pod) || pod.DeletionTimestamp != nil {
		c.t.Errorf("the source pod is gone")
	}
	if m.Status.Target != nil && m.Status.Target.PodName != "" {
		target := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: c.ns, Name: m.Status.Target.PodName}}
		if c.get(target) {
			c.t.Errorf("the target pod still exists")
		}
	}
	if left, err := c.imagesLeft(); err != nil || len(left) > 0 {
		c.t.Errorf("images left on the volume: %v %v", left, err)
	}
}

func TestAFailedRestoreGivesTheSourceBack(t *testing.T) {
	c := newCluster(t)
	pod := c.startPod("app")
	c.node("n2").failRestores = 1
	m := c.migrate("app")
	c.awaitPhase(m, v1alpha1.PhaseFailed)
	if m.Status.Failure.Reason != v1alpha1.ReasonRestoreFailed {
		t.Errorf("reason %s: %s", m.Status.Failure.Reason, describe(m))
	}
	if got := c.node("n2").fake.Discarded(); len(got) != 1 {
		t.Errorf("the failed restore was not discarded: %v", got)
	}
	c.staysOnSource(pod, m)
}

func TestCancel(t *testing.T) {
	hold := map[string]struct{ node, method string }{
		"Preparing":                   {"n1", "Inspect"},
		"PreCopying":                  {"n1", "PreDump"},
		"SwitchingOver before dump":   {"n1", "Freeze"},
		"SwitchingOver while dumping": {"n1", "Dump"},
	}
	for name, h := range hold {
		for _, by := range []string{"annotation", "deletion"} {
			t.Run(name+" by "+by, func(t *testing.T) {
				c := newCluster(t)
				pod := c.startPod("app")
				reached, release := make(chan struct{}), make(chan struct{})
				first := true
				c.node(h.node).fake.SetHook(h.method, func(ctx context.Context, _ string) error {
					if first {
						first = false
						close(reached)
						<-release
					}
					return nil
				})
				m := c.migrate("app")
				<-reached
				c.cancel(m, by)
				close(release)
				if by == "annotation" {
					c.awaitPhase(m, v1alpha1.PhaseCancelled)
				} else {
					c.eventually("the Migration is gone", func() bool { return !c.get(m) }, m)
				}
				c.staysOnSource(pod, m)
			})
		}
	}
}

// cancel asks for the end of a migration and waits until the controller has
// written the abort, unless nothing was begun.
func (c *cluster) cancel(m *v1alpha1.Migration, by string) {
	c.t.Helper()
	if by == "deletion" {
		must(c.t, c.client.Delete(c.ctx, m))
	} else {
		must(c.t, c.client.Patch(c.ctx, m.DeepCopy(), client.RawPatch("application/merge-patch+json",
			[]byte(`{"metadata":{"annotations":{"`+v1alpha1.AnnotationCancel+`":"true"}}}`))))
	}
	c.eventually("the controller has taken the cancellation", func() bool {
		return !c.get(m) || m.Status.Handover != nil || m.Status.Phase == v1alpha1.PhaseCancelled
	}, m)
}

func TestRestartsOfTheAgentsAndTheController(t *testing.T) {
	// Held in the middle of a step, each part is stopped and started again.
	type spot struct{ node, method string }
	spots := []spot{
		{"n1", "Inspect"}, {"n1", "PreDump"}, {"n1", "Freeze"}, {"n1", "Dump"},
		{"n2", "Signal"}, {"n2", "Unpack"},
	}
	for _, at := range spots {
		for _, part := range []string{"source agent", "target agent", "controller"} {
			t.Run(part+" at "+at.method, func(t *testing.T) {
				c := newCluster(t)
				c.startPod("app")
				reached := make(chan struct{})
				first := true
				// The call fails as it does when its agent dies under it; a dump
				// goes on.
				died := at.method != "Dump" && at.node == "n1" && part == "source agent" || at.node == "n2" && part == "target agent"
				release := make(chan struct{})
				c.node(at.node).fake.SetHook(at.method, func(ctx context.Context, _ string) error {
					if !first {
						return nil
					}
					first = false
					close(reached)
					if died {
						<-ctx.Done()
						return ctx.Err()
					}
					<-release
					return nil
				})
				m := c.migrate("app")
				select {
				case <-reached:
				case <-time.After(patiently(20 * time.Second)):
					c.get(m)
					t.Fatalf("never called %s: %s", at.method, describe(m))
				}
				switch part {
				case "source agent":
					c.restartWhile("n1", release, died)
				case "target agent":
					c.restartWhile("n2", release, died)
				default:
					c.restartController()
					close(release)
				}
				c.awaitPhase(m, v1alpha1.PhaseSucceeded, v1alpha1.PhaseFailed)
				t.Logf("ended %s: %s", m.Status.Phase, m.Status.Message)
				if m.Status.Phase == v1alpha1.PhaseSucceeded {
					c.runsOn("n2")
				} else {
					c.runsOn("n1")
				}
			})
		}
	}
}

// restartWhile restarts an agent; a held call of the other side is released
// afterwards, one of its own ends with the agent.
func (c *cluster) restartWhile(short string, release chan struct{}, died bool) {
	if !died {
		time.AfterFunc(100*time.Millisecond, func() { close(release) })
	}
	c.restartAgent(short)
}
