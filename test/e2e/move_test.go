// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"net"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/test/harness"
	"godwit.dev/godwit/test/harness/redisload"
)

// TestRedisMovesUnderLoad moves a database to the node the scheduler chooses,
// while a client writes and reads through its Service.
func TestRedisMovesUnderLoad(t *testing.T) {
	s := begin(t)
	service := harness.Service(s.ns, "redis", 6379)
	s.must(s.Create(s.ctx, service))
	pod, err := s.Start(s.ctx, harness.Pod(s.ns, "redis", s.Redis))
	s.must(err)
	client := redisload.Connect(net.JoinHostPort(service.Spec.ClusterIP, "6379"))
	defer func() { _ = client.Close() }()
	s.must(client.AwaitAnswer(s.ctx))
	ledger := redisload.NewLedger(client)
	s.must(ledger.Fill(s.ctx, 2000, 4096, func(int64) {}))
	identity, err := client.Identity(s.ctx)
	s.must(err)

	load := redisload.StartLoad(s.ctx, ledger, redisload.DefaultPace())
	s.must(load.AwaitOperations(s.ctx, 50))
	m := s.move("live", pod)
	target := s.succeeded(m)
	s.must(load.AwaitOperations(s.ctx, 50))
	stats := load.Stop()

	if target.Spec.NodeName == pod.Spec.NodeName {
		t.Errorf("the pod is still on %s", target.Spec.NodeName)
	}
	report, err := ledger.Verify(s.ctx)
	s.must(err)
	if !report.OK() {
		t.Errorf("keys are wrong: %+v", report)
	}
	if now, err := client.Identity(s.ctx); err != nil || !identity.Same(now) {
		t.Errorf("not the same process: %+v, %+v (%v)", identity, now, err)
	}
	t.Logf("%d operations, longest gap %s, downtime %+v", stats.Operations(), stats.Longest.Length(), m.Status.Downtime)
}

// TestThereAndBackAgain moves the same process twice, with files and shared
// memory that it has written, and looks at its tasks on the node meanwhile.
func TestThereAndBackAgain(t *testing.T) {
	s := begin(t)
	pod, hog := s.startMemhog("hog")
	before, err := hog.Status(s.ctx)
	s.must(err)
	_, err = s.KubectlRun(s.ctx, "exec", "-n", s.ns, pod.Name, "--", "sh", "-c", "echo kept > /tmp/file && echo shared > /dev/shm/segment")
	s.must(err)
	look, err := s.Look(pod)
	s.must(err)
	sampler, err := look.Sample(s.ctx)
	s.must(err)

	there := s.move("there", pod)
	samples, err := sampler.Stop()
	s.must(err)
	target := s.succeeded(there)
	before = s.sameProcess(before, harness.MemhogAt(target))
	frozenUntilConfirmed(t, samples, there)
	s.holds(target, "/tmp/file", "kept")
	s.holds(target, "/dev/shm/segment", "shared")

	back := s.move("back", target)
	home := s.succeeded(back)
	if home.Spec.NodeName != pod.Spec.NodeName {
		t.Errorf("the pod is on %s, not back on %s", home.Spec.NodeName, pod.Spec.NodeName)
	}
	s.sameProcess(before, harness.MemhogAt(home))
	s.holds(home, "/tmp/file", "kept")
	if n := len(home.Spec.InitContainers); n != 1 {
		t.Errorf("%d init containers after two moves", n)
	}
	s.tellsTheStory(there)
}

func (s *scenario) holds(pod *corev1.Pod, file, content string) {
	s.Helper()
	out, err := s.KubectlRun(s.ctx, "exec", "-n", s.ns, pod.Name, "--", "cat", file)
	if err != nil || strings.TrimSpace(out) != content {
		s.Errorf("%s in %s: %q, %v", file, pod.Name, out, err)
	}
}

// frozenUntilConfirmed: from the freeze until the target was confirmed the
// source's tasks were there and did not run.
func frozenUntilConfirmed(t *testing.T, samples []harness.Sample, m *v1alpha1.Migration) {
	t.Helper()
	from, to := m.Status.Source.FrozenAt.Time, m.Status.Target.RestoredAt.Time
	// Freezing itself takes a moment, and the confirmation is the other node's clock.
	from, to = from.Add(time.Second), to.Add(-200*time.Millisecond)
	seen := 0
	var cpu time.Duration
	for _, sample := range samples {
		if sample.Node.Before(from) || sample.Node.After(to) {
			continue
		}
		if sample.Gone || !sample.Frozen || sample.Processes == 0 {
			t.Errorf("at %s the source was not frozen: %+v", sample.Node, sample)
		}
		if seen > 0 && sample.CPU > cpu+50*time.Millisecond {
			t.Errorf("the frozen source used CPU: %s after %s", sample.CPU, cpu)
		}
		if seen == 0 {
			cpu = sample.CPU
		}
		seen++
	}
	if seen < 3 {
		t.Errorf("only %d looks at the source between freeze and confirmation, of %d in all", seen, len(samples))
	}
}

// tellsTheStory: what a person sees without reading logs.
func (s *scenario) tellsTheStory(m *v1alpha1.Migration) {
	s.Helper()
	out, err := s.KubectlRun(s.ctx, "get", "mig", "-n", s.ns, m.Name)
	s.must(err)
	for _, want := range []string{"POD", "FROM", "TO", "PHASE", "ROUND", "DIRTY", "DOWNTIME", "AGE", m.Status.Source.NodeName, m.Status.Target.NodeName, "Succeeded"} {
		if !strings.Contains(out, want) {
			s.Errorf("kubectl get mig does not show %q:\n%s", want, out)
		}
	}
	out, err = s.KubectlRun(s.ctx, "describe", "mig", "-n", s.ns, m.Name)
	s.must(err)
	for _, want := range []string{"RoundFinished", "Converged", "TargetParked", "FinalDump", "Committed", "Restored", "Succeeded", "Freeze And Dump"} {
		if !strings.Contains(out, want) {
			s.Errorf("kubectl describe mig does not show %q:\n%s", want, out)
		}
	}
}

// TestStopAndCopyToANamedNode moves with a single dump.
func TestStopAndCopyToANamedNode(t *testing.T) {
	s := begin(t)
	pod, hog := s.startMemhog("hog")
	before, err := hog.Status(s.ctx)
	s.must(err)
	other := map[string]string{"n1": "n2", "n2": "n1"}[pod.Spec.NodeName]
	m := s.move("stop", pod, func(spec *v1alpha1.MigrationSpec) {
		spec.PreCopy.MaxRounds = new(int32)
		spec.TargetNode, spec.TargetPodName = other, "hog-moved"
	})
	target := s.succeeded(m)
	if target.Name != "hog-moved" || target.Spec.NodeName != other {
		t.Errorf("the pod is %s on %s", target.Name, target.Spec.NodeName)
	}
	if n := len(m.Status.Source.Containers[0].Rounds); n != 0 {
		t.Errorf("%d rounds were copied", n)
	}
	s.sameProcess(before, harness.MemhogAt(target))
}
