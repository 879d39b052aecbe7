// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/test/harness"
)

// scenarioTimeout bounds one scenario on emulated nodes.
const scenarioTimeout = 10 * time.Minute

// scenario is one test with a namespace of its own.
type scenario struct {
	*testing.T
	*harness.Harness
	ctx       context.Context
	namespace string
}

// begin makes the test's namespace. When the test fails, everything that may
// explain it is collected before the namespace is removed.
func begin(t *testing.T) *scenario {
	t.Helper()
	if cluster.TooLate() {
		t.Skipf("not begun: it is later than %s (BEGIN_UNTIL)", cluster.BeginUntil.Format(time.TimeOnly))
	}
	ctx, cancel := context.WithTimeout(t.Context(), scenarioTimeout)
	name := strings.ToLower(strings.TrimPrefix(t.Name(), "Test"))
	s := &scenario{T: t, Harness: cluster, ctx: ctx, namespace: "e2e-" + name}
	t.Cleanup(func() {
		defer cancel()
		// The test's context has ended by now.
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
		defer cancel()
		if t.Failed() {
			dir := filepath.Join(s.Artifacts, t.Name())
			t.Logf("logs are in %s", dir)
			if err := s.Collect(ctx, s.namespace, dir); err != nil {
				t.Logf("collect: %v", err)
			}
		}
		// The next test need not wait until it is gone; run waits for all of them.
		if err := s.DeleteNamespace(ctx, s.namespace); err != nil {
			t.Errorf("clean up: %v", err)
		}
		used = append(used, s.namespace)
	})
	s.must(s.AwaitReady(ctx))
	s.must(s.FreshNamespace(ctx, s.namespace))
	return s
}

// longer gives a scenario so many times the time that others have, from now on.
func (s *scenario) longer(times int) {
	ctx, cancel := context.WithTimeout(s.Context(), time.Duration(times)*scenarioTimeout)
	s.Cleanup(cancel)
	s.ctx = ctx
}

// step runs a part of the test as a subtest, which everything reports to.
func (s *scenario) step(name string, do func()) {
	s.Helper()
	whole := s.T
	defer func() { s.T = whole }()
	whole.Run(name, func(t *testing.T) {
		s.T = t
		do()
	})
}

func (s *scenario) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// start creates pods and waits until all are ready. It returns the first.
func (s *scenario) start(pods ...*corev1.Pod) *corev1.Pod {
	s.Helper()
	for _, pod := range pods {
		s.must(s.Create(s.ctx, pod))
	}
	for _, pod := range pods {
		s.must(s.AwaitPodReady(s.ctx, pod))
	}
	return pods[0]
}

// pod reads a pod.
func (s *scenario) pod(name string) *corev1.Pod {
	s.Helper()
	pod, err := s.GetPod(s.ctx, s.namespace, name)
	s.must(err)
	return pod
}

// look finds a pod's container on its node.
func (s *scenario) look(pod *corev1.Pod) harness.OnNode {
	s.Helper()
	c, err := s.Look(pod)
	s.must(err)
	return c
}

// hold makes the agent on a node stand still, which keeps a migration where it
// is, until release is called or the test ends. What is waited for meanwhile must
// not wait for that agent itself: its liveness probe gives it half a minute, and
// then kubelet starts another one.
func (s *scenario) hold(node string) (release func()) {
	s.Helper()
	agent, err := s.AgentOn(s.ctx, node)
	s.must(err)
	on := s.look(agent)
	s.must(on.Signal(s.ctx, "STOP"))
	release = sync.OnceFunc(func() {
		if err := on.Signal(s.ctx, "CONT"); err != nil {
			s.Errorf("the agent on %s stood still for too long: %v", node, err)
		}
	})
	s.Cleanup(release)
	return release
}

// migration creates a Migration.
func (s *scenario) migration(name, pod string, change ...func(*v1alpha1.MigrationSpec)) *v1alpha1.Migration {
	s.Helper()
	m := harness.Migration(s.namespace, name, pod, change...)
	s.must(s.Create(s.ctx, m))
	return m
}

// await waits until the migration is as cond says.
func (s *scenario) await(m *v1alpha1.Migration, what string, cond func(*v1alpha1.Migration) bool) {
	s.Helper()
	s.must(s.AwaitMigration(s.ctx, m, what, cond))
}

// finish waits until the migration is in that final phase.
func (s *scenario) finish(m *v1alpha1.Migration, phase v1alpha1.MigrationPhase) {
	s.Helper()
	s.must(s.AwaitFinished(s.ctx, m))
	if m.Status.Phase != phase {
		s.Fatalf("the migration did not end as %s\n%s", phase, harness.Summary(m))
	}
}

// arrived checks that a migration has succeeded, and returns the pod it made,
// which must be ready and never restarted.
func (s *scenario) arrived(m *v1alpha1.Migration) *corev1.Pod {
	s.Helper()
	s.finish(m, v1alpha1.PhaseSucceeded)
	source := &corev1.Pod{}
	source.Namespace, source.Name = s.namespace, m.Status.Source.PodName
	source.UID = m.Status.Source.PodUID
	s.must(s.AwaitPodGone(s.ctx, source))
	pod := s.pod(m.Status.Target.PodName)
	s.must(s.AwaitPodReady(s.ctx, pod))
	if pod.UID != m.Status.Target.PodUID || pod.Spec.NodeName != m.Status.Target.NodeName || pod.Spec.NodeName == m.Status.Source.NodeName {
		s.Errorf("pod %s (%s) on %s is not the target\n%s", pod.Name, pod.UID, pod.Spec.NodeName, harness.Summary(m))
	}
	if n := harness.Restarts(pod); n != 0 {
		s.Errorf("pod %s was restarted %d times", pod.Name, n)
	}
	s.logDowntime(m)
	return pod
}

func (s *scenario) logDowntime(m *v1alpha1.Migration) {
	s.Helper()
	if d := m.Status.Downtime; d == nil || d.Total.Duration <= 0 {
		s.Errorf("no downtime was measured\n%s", harness.Summary(m))
	} else {
		replaced := ""
		if d.Replace != nil {
			replaced = fmt.Sprintf(" + %s", d.Replace.Round(time.Millisecond))
		}
		s.Logf("%s: %s to %s, down for %s = %s + %s%s + %s", m.Name, m.Status.Source.NodeName, m.Status.Target.NodeName,
			d.Total.Round(time.Millisecond), d.FreezeAndDump.Round(time.Millisecond),
			d.Handover.Round(time.Millisecond), replaced, d.Restore.Round(time.Millisecond))
	}
}

// stayed checks that a migration has ended without moving anything: the source
// pod is ready where it was, never restarted, and there is no other.
func (s *scenario) stayed(m *v1alpha1.Migration, source *corev1.Pod) {
	s.Helper()
	now := s.pod(source.Name)
	if now.UID != source.UID || now.DeletionTimestamp != nil || harness.Restarts(now) != 0 {
		s.Errorf("the source pod is not what it was\n%s", harness.Summary(m))
	}
	s.must(s.AwaitPodReady(s.ctx, now))
	if t := m.Status.Target; t != nil && t.PodName != "" {
		gone := &corev1.Pod{}
		gone.Namespace, gone.Name, gone.UID = s.namespace, t.PodName, t.PodUID
		s.must(s.AwaitPodGone(s.ctx, gone))
	}
	s.nothingLeft(m)
}

// nothingLeft checks that neither the volume nor a node keeps anything of the
// migration. Both agents clean up at their own pace.
func (s *scenario) nothingLeft(m *v1alpha1.Migration) {
	s.Helper()
	for _, n := range s.Nodes.Nodes() {
		s.eventually("traces of the migration on "+n.Name+" to go", func() (bool, string) {
			// Listing a directory makes the NFS client look again; asking for one
			// name may not.
			out, err := n.Output(s.ctx, "ls "+harness.ImagesDir+" && { ls /run/godwit/work 2>/dev/null || true; }")
			s.must(err)
			return !strings.Contains(out, string(m.UID)), out
		})
	}
}
