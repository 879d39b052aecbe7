// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"godwit.dev/godwit/test/harness"
)

// TestAPodIsAnOrdinaryPodAfterwards uses a moved pod in all the ways kubelet
// offers, and at last lets its process crash.
func TestAPodIsAnOrdinaryPodAfterwards(t *testing.T) {
	s := begin(t)
	pod := s.MemhogPod(s.ns, "hog", "SIZE_MIB=32", "DIRTY_MIB_PER_SECOND=1")
	pod.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m")}
	pod.Spec.Containers[0].LivenessProbe = pod.Spec.Containers[0].ReadinessProbe.DeepCopy()
	pod.Spec.Containers[0].LivenessProbe.FailureThreshold = 60
	pod, err := s.Start(s.ctx, pod)
	s.must(err)
	hog := harness.MemhogAt(pod)
	s.must(hog.Order(s.ctx, "/log?text=before"))
	before, err := hog.Status(s.ctx)
	s.must(err)
	target := s.succeeded(s.move("there", pod))
	hog = harness.MemhogAt(target)
	s.sameProcess(before, hog)

	s.must(hog.Order(s.ctx, "/log?text=afterwards"))
	s.eventually("the log goes on", func() (bool, string) {
		out, err := s.KubectlRun(s.ctx, "logs", "-n", s.ns, target.Name)
		return err == nil && strings.Contains(out, "afterwards"), fmt.Sprint(out, err)
	})
	out, err := s.KubectlRun(s.ctx, "exec", "-n", s.ns, target.Name, "--", "hostname")
	s.must(err)
	if strings.TrimSpace(out) != pod.Name {
		t.Errorf("hostname %q, want the source's %q", strings.TrimSpace(out), pod.Name)
	}
	_, err = s.KubectlRun(s.ctx, "patch", "pod", "-n", s.ns, target.Name, "--subresource=resize", "--type=strategic",
		"-p", `{"spec":{"containers":[{"name":"main","resources":{"requests":{"cpu":"150m"}}}]}}`)
	s.must(err)
	look, err := s.Look(target)
	s.must(err)
	s.eventually("the new CPU request is in force", func() (bool, string) {
		weight, err := look.Read(s.ctx, "cpu.weight")
		return err == nil && strings.TrimSpace(weight) != "4" && weight != "", fmt.Sprint(weight, err)
	})

	// A crash: the image set is used up, so the container starts afresh.
	s.must(look.Signal(s.ctx, "KILL"))
	s.eventually("the container is restarted", func() (bool, string) {
		p, err := s.GetPod(s.ctx, s.ns, target.Name)
		return err == nil && harness.Restarts(p) == 1 && harness.Ready(p), fmt.Sprint(p.Status.ContainerStatuses, err)
	})
	fresh, err := hog.Status(s.ctx)
	s.must(err)
	if fresh.BootID == before.BootID {
		t.Errorf("the crashed process came back: %+v", fresh)
	}
	begun := time.Now()
	s.must(s.Delete(s.ctx, target))
	s.must(s.AwaitPodGone(s.ctx, target))
	t.Logf("deleted within %s", time.Since(begun).Round(time.Second))
}

// eventually looks until it sees, for what no watch tells.
func (s *scenario) eventually(what string, look func() (bool, string)) {
	s.Helper()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	deadline := time.After(2 * time.Minute)
	for {
		ok, seen := look()
		if ok {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			s.Fatalf("waited for: %s; last seen: %s", what, seen)
		case <-s.ctx.Done():
			s.Fatalf("waited for: %s; last seen: %s", what, seen)
		}
	}
}
