// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/node-agent/runtime"
	"godwit.dev/godwit/node-agent/runtime/fake"
)

// busy is a pod that dirties most of its memory again in every round, unless it is
// slowed down.
type busy struct {
	*cluster
	pod       *corev1.Pod
	container *fake.Container
	before    runtime.CPULimit
}

func startBusy(t *testing.T) *busy {
	b := &busy{cluster: newCluster(t)}
	n := b.node("n1")
	n.mu.Lock()
	n.sized = func(c *fake.Container) {
		b.container = c
		c.SetMemory(512<<20, 400<<20)
	}
	n.mu.Unlock()
	n.fake.SetHook("PreDump", slowVolume)
	b.pod = b.startPod("app")
	b.before = b.container.Limit()
	return b
}

// slowVolume takes about 1 GiB/s of a busy pod: what is dirty has to cost something.
func slowVolume(ctx context.Context, _ string) error {
	select {
	case <-time.After(500 * time.Millisecond):
	case <-ctx.Done():
	}
	return ctx.Err()
}

// throttling asks for pre-copy that slows the pod down.
func throttling(m *v1alpha1.Migration) {
	m.Spec.PreCopy.OnStall = v1alpha1.OnStallThrottle
	m.Spec.PreCopy.TargetDowntime = &metav1.Duration{Duration: 1200 * time.Millisecond}
}

// unlimited checks that the container has its CPU time back.
func (b *busy) unlimited(m *v1alpha1.Migration) {
	b.t.Helper()
	b.eventually("the pod has its CPU time back", func() bool { return b.container.Limit() == b.before }, m)
}

func TestABusyPodIsSlowedDownUntilItConverges(t *testing.T) {
	b := startBusy(t)
	// CRIU works in the pod's processes: it must have all of its time by then.
	var dumpedAt runtime.CPULimit
	b.node("n1").fake.SetHook("Dump", func(context.Context, string) error {
		dumpedAt = b.container.Limit()
		return nil
	})
	m := b.migrate("app", throttling)
	b.awaitPhase(m, v1alpha1.PhaseSucceeded)
	if dumpedAt != b.before {
		t.Errorf("the final dump ran at %+v of %+v", dumpedAt, b.before)
	}
	throttled := false
	for _, c := range b.node("n1").fake.Calls() {
		throttled = throttled || c.Method == "Limit"
	}
	if !throttled {
		t.Errorf("it converged by itself: this test says nothing%s", describe(m))
	}
	if c := m.Status.Source.Convergence; c == nil || c.CPUPercent == nil || *c.CPUPercent >= 100 {
		t.Errorf("the status does not say how it converged%s", describe(m))
	}
	b.runsOn("n2")
}

func TestWhatCannotConvergeIsAbortedWithTheRates(t *testing.T) {
	b := startBusy(t)
	m := b.migrate("app", func(m *v1alpha1.Migration) {
		throttling(m)
		m.Spec.PreCopy.OnStall = v1alpha1.OnStallAbort
	})
	b.awaitPhase(m, v1alpha1.PhaseFailed)
	if f := m.Status.Failure; f == nil || !strings.Contains(f.Message, "were dirtied and") {
		t.Errorf("the failure does not name the rates%s", describe(m))
	}
	b.staysOnSource(b.pod, m)
}

// However the pre-copy ends, the pod gets its CPU time back.
func TestASlowedPodGetsItsTimeBack(t *testing.T) {
	for name, end := range map[string]func(b *busy, m *v1alpha1.Migration){
		"cancelled": func(b *busy, m *v1alpha1.Migration) { b.cancel(m, "annotation") },
		"round fails": func(b *busy, _ *v1alpha1.Migration) {
			b.node("n1").fake.SetNextError("PreDump", errors.New("on purpose"))
		},
		"agent restarts":   func(b *busy, _ *v1alpha1.Migration) { b.restartAgent("n1") },
		"removed by force": func(b *busy, m *v1alpha1.Migration) { b.force(m) },
	} {
		t.Run(name, func(t *testing.T) {
			b := startBusy(t)
			slowed := make(chan struct{})
			release := make(chan struct{})
			b.node("n1").fake.SetHook("PreDump", func(ctx context.Context, id string) error {
				if b.container.Limit() == b.before {
					return slowVolume(ctx, id)
				}
				select {
				case <-slowed:
				default:
					close(slowed)
				}
				select {
				case <-release:
				case <-ctx.Done():
				}
				return nil
			})
			m := b.migrate("app", throttling)
			b.await(m, "the pod is slowed down", slowed)
			end(b, m)
			b.node("n1").fake.SetHook("PreDump", nil)
			close(release)
			b.unlimited(m)
		})
	}
}
