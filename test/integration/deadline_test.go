// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/api/v1alpha1"
)

// hang makes the next call of a method wait until it is released, whatever
// happens to its context: a system call on a volume that is away.
func (c *cluster) hang(node, method string) (reached <-chan struct{}, release func()) {
	at, released := make(chan struct{}), make(chan struct{})
	n := c.node(node).fake
	n.SetHook(method, func(context.Context, string) error {
		n.SetHook(method, nil)
		close(at)
		<-released
		return nil
	})
	return at, func() {
		select {
		case <-released:
		default:
			close(released)
		}
	}
}

// stopAndCopy copies everything while the pod is frozen.
func stopAndCopy(m *v1alpha1.Migration) { m.Spec.PreCopy.MaxRounds = ptr.To(int32(0)) }

// impatient gives up everything soon.
func impatient(m *v1alpha1.Migration) {
	m.Spec.SwitchoverTimeout = &metav1.Duration{Duration: time.Second}
	m.Spec.PreCopy.RoundTimeout = &metav1.Duration{Duration: time.Second}
}

func TestAStalledVolumeDoesNotHoldTheSource(t *testing.T) {
	for _, at := range []struct {
		method, reason string
		change         func(*v1alpha1.Migration)
	}{
		{"PreDump", v1alpha1.ReasonRoundTimeout, nil},
		{"Pack", v1alpha1.ReasonRoundTimeout, nil},
		{"Dump", v1alpha1.ReasonSwitchoverTimeout, nil},
		{"Pack", v1alpha1.ReasonSwitchoverTimeout, stopAndCopy},
	} {
		t.Run(at.method+" "+at.reason, func(t *testing.T) {
			c := newCluster(t)
			pod := c.startPod("app")
			reached, release := c.hang("n1", at.method)
			t.Cleanup(release)
			m := c.migrate("app", impatient, func(m *v1alpha1.Migration) {
				if at.change != nil {
					at.change(m)
				}
			})
			<-reached
			c.eventually("the source gives up", func() bool {
				return c.get(m) && m.Status.Source != nil && m.Status.Source.Failure != nil
			}, m)
			if got := m.Status.Source.Failure.Reason; got != at.reason {
				t.Errorf("reason %s, want %s: %s", got, at.reason, describe(m))
			}
			// The volume is still away, but the pod runs.
			c.runsOn("n1")
			release()
			c.awaitPhase(m, v1alpha1.PhaseFailed)
			c.staysOnSource(pod, m)
			if h, err := c.node("n1").heldRecords(); err != nil || len(h) > 0 {
				t.Errorf("records of a freeze are left: %v %v", h, err)
			}
		})
	}
}

func TestNoSpaceIsSaidAsSuch(t *testing.T) {
	for _, method := range []string{"PreDump", "Dump", "Pack"} {
		for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT} {
			t.Run(fmt.Sprintf("%s %s", method, errno), func(t *testing.T) {
				c := newCluster(t)
				pod := c.startPod("app")
				c.node("n1").fake.SetNextError(method, fmt.Errorf("write: %w", errno))
				m := c.migrate("app")
				c.awaitPhase(m, v1alpha1.PhaseFailed, v1alpha1.PhaseSucceeded)
				if f := m.Status.Failure; f == nil || f.Reason != v1alpha1.ReasonNoSpace || !strings.Contains(f.Message, "enlarge the claim") {
					t.Errorf("want NoSpace with a remedy: %s", describe(m))
				}
				c.staysOnSource(pod, m)
			})
		}
	}
}

func TestAMigrationRemovedByForceWhileDumpingLeavesTheSourceRunning(t *testing.T) {
	c := newCluster(t)
	pod := c.startPod("app")
	reached, release := c.hang("n1", "Dump")
	t.Cleanup(release)
	m := c.migrate("app")
	<-reached
	c.force(m)
	release()
	c.runsOn("n1")
	c.eventually("nothing is left of it", func() bool {
		images, err := c.imagesLeft()
		must(t, err)
		records, err := c.node("n1").heldRecords()
		must(t, err)
		return len(images)+len(records) == 0
	})
	if !c.get(pod) || pod.DeletionTimestamp != nil {
		t.Error("the source pod is gone")
	}
}

// force removes a Migration without anybody having a say.
func (c *cluster) force(m *v1alpha1.Migration) {
	c.t.Helper()
	c.controller.stop() // it would answer the deletion with an abort
	must(c.t, c.client.Delete(c.ctx, m))
	must(c.t, c.client.Patch(c.ctx, m, client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"finalizers":null}}`))))
	c.eventually("the Migration is gone", func() bool { return !c.get(m) })
	c.controller = c.startController()
}

func TestAnUnpackThatHangsAfterTheCommitGivesTheSourceBack(t *testing.T) {
	c := newCluster(t)
	pod := c.startPod("app")
	reached, release := c.hang("n2", "Unpack")
	t.Cleanup(release)
	m := c.migrate("app", stopAndCopy)
	<-reached
	c.awaitPhase(m, v1alpha1.PhaseFailed)
	if m.Status.Failure.Reason != v1alpha1.ReasonRestoreFailed {
		t.Errorf("reason %s: %s", m.Status.Failure.Reason, describe(m))
	}
	c.staysOnSource(pod, m)
}
