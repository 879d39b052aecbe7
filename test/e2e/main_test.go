// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Package e2e moves real pods between the two nodes of the test cluster, with
// everything real but the hardware. It runs inside the cluster's network (make
// e2e); elsewhere it says so and does nothing.
package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/test/harness"
)

// cluster is the installation that all scenarios share.
var cluster *harness.Harness

// testTimeout bounds one scenario on emulated nodes.
const testTimeout = 8 * time.Minute

func TestMain(m *testing.M) {
	if os.Getenv("CLUSTER") == "" || os.Getenv("KUBECONFIG") == "" {
		fmt.Println("the end-to-end tests run in a cluster of virtual machines: make e2e")
		os.Exit(0)
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	config, err := harness.ConfigFromEnvironment()
	if err == nil {
		cluster, err = harness.New(config, os.Stderr)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = cluster.Close() }()
	if err := cluster.Install(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		_ = cluster.Collect(context.Background(), harness.Namespace, filepath.Join(config.Artifacts, "install"))
		return 1
	}
	return m.Run()
}

// scenario is one test with a namespace of its own.
type scenario struct {
	*testing.T
	*harness.Harness
	ctx context.Context
	ns  string
}

// begin prepares a scenario and, when it fails, keeps what there is to see.
func begin(t *testing.T) *scenario {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	ns := "e2e-" + strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(strings.TrimPrefix(t.Name(), "Test")))
	if len(ns) > 63 {
		ns = strings.TrimRight(ns[:63], "-")
	}
	s := &scenario{T: t, Harness: cluster, ctx: ctx, ns: ns}
	s.must(s.FreshNamespace(ctx, ns))
	t.Cleanup(func() {
		defer cancel()
		bg, done := context.WithTimeout(context.Background(), 4*time.Minute)
		defer done()
		if t.Failed() {
			if err := s.Collect(bg, ns, filepath.Join(s.Artifacts, ns)); err != nil {
				t.Logf("collect: %v", err)
			}
			if s.Keep {
				return
			}
		}
		if err := s.RemoveNamespace(bg, ns); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
	return s
}

func (s *scenario) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// startMemhog starts a small test server.
func (s *scenario) startMemhog(name string, env ...string) (*corev1.Pod, harness.Memhog) {
	s.Helper()
	pod := s.MemhogPod(s.ns, name, append([]string{"SIZE_MIB=32", "DIRTY_MIB_PER_SECOND=1", "PATTERN=hot", "HOT_PERCENT=10"}, env...)...)
	pod, err := s.Start(s.ctx, pod)
	s.must(err)
	return pod, harness.MemhogAt(pod)
}

// move creates a migration and waits for its end.
func (s *scenario) move(name string, pod *corev1.Pod, change ...func(*v1alpha1.MigrationSpec)) *v1alpha1.Migration {
	s.Helper()
	m := harness.Migration(s.ns, name, pod.Name, change...)
	s.must(s.Create(s.ctx, m))
	s.must(s.AwaitFinished(s.ctx, m))
	return m
}

// succeeded fails the test unless the migration has moved the pod, and returns
// the target pod once kubelet has it ready.
func (s *scenario) succeeded(m *v1alpha1.Migration) *corev1.Pod {
	s.Helper()
	if m.Status.Phase != v1alpha1.PhaseSucceeded {
		s.Fatalf("the migration did not succeed\n%s", harness.Summary(m))
	}
	pod, err := s.GetPod(s.ctx, s.ns, m.Status.Target.PodName)
	s.must(err)
	s.must(s.AwaitPodReady(s.ctx, pod))
	if n := harness.Restarts(pod); n != 0 {
		s.Errorf("the target's containers were restarted %d times", n)
	}
	return pod
}

// sameProcess fails the test unless the server is the process it was, with its
// memory as it has to be.
func (s *scenario) sameProcess(before harness.MemhogStatus, at harness.Memhog) harness.MemhogStatus {
	s.Helper()
	after, err := at.Status(s.ctx)
	s.must(err)
	if after.BootID != before.BootID || !after.StartTime.Equal(before.StartTime) || after.Counter <= before.Counter {
		s.Errorf("not the same process, or it did not go on: before %+v, after %+v", before, after)
	}
	if _, err := at.Verify(s.ctx); err != nil {
		s.Errorf("memory: %v", err)
	}
	return after
}

// sourceGoesOn fails the test unless the source pod runs as before.
func (s *scenario) sourceGoesOn(pod *corev1.Pod, before harness.MemhogStatus, at harness.Memhog) {
	s.Helper()
	now, err := s.GetPod(s.ctx, s.ns, pod.Name)
	s.must(err)
	if now.UID != pod.UID || now.DeletionTimestamp != nil || harness.Restarts(now) != 0 {
		s.Errorf("the source pod was touched: uid %s, deletion %v, restarts %d", now.UID, now.DeletionTimestamp, harness.Restarts(now))
	}
	s.sameProcess(before, at)
	look, err := s.Look(now)
	s.must(err)
	frozen, err := look.Read(s.ctx, "cgroup.events")
	s.must(err)
	if !strings.Contains(frozen, "frozen 0") {
		s.Errorf("the source is frozen: %q", frozen)
	}
}
