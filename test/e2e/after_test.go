// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"godwit.dev/godwit/test/harness"
)

// A moved pod is an ordinary pod: everything that kubelet offers works as
// before, and a crash restarts the container from its image.
func TestAfterwards(t *testing.T) {
	s := begin(t)
	spec := s.MemhogPod(s.namespace, "ordinary", "SIZE_MIB=32", "DIRTY_MIB_PER_SECOND=1")
	c := &spec.Spec.Containers[0]
	c.Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m")}
	c.Resources.Limits = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")}
	c.ReadinessProbe = &corev1.Probe{
		ProbeHandler:  corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"test", "!", "-e", "/tmp/unready"}}},
		PeriodSeconds: 2, TimeoutSeconds: 10, FailureThreshold: 1,
	}
	p := s.follow(s.start(spec))
	p.log("before")
	p.continues(s.arrived(s.migration("move", p.pod.Name)))

	p.logGoesOn()
	if out := s.sh(p.pod.Name, "hostname"); strings.TrimSpace(out) != "ordinary" {
		t.Errorf("exec: hostname %q, want the source's", out)
	}
	p.portForwards()
	p.probesWork()
	p.resizes()
	p.restartsAfresh()

	node := s.look(s.pod(p.pod.Name))
	s.must(s.Delete(s.ctx, p.pod))
	s.must(s.AwaitPodGone(s.ctx, p.pod))
	if pids, err := node.Processes(s.ctx); err != nil || len(pids) > 0 {
		t.Errorf("the deleted pod left processes %v, %v", pids, err)
	}
}

func (p *process) logGoesOn() {
	p.Helper()
	p.log("afterwards")
	p.eventually("the log to go on", func() (bool, string) {
		out, err := p.KubectlRun(p.ctx, "-n", p.namespace, "logs", p.pod.Name)
		return err == nil && strings.Contains(out, "afterwards"), fmt.Sprint(out, err)
	})
}

var forwarded = regexp.MustCompile(`127\.0\.0\.1:(\d+)`)

// portForwards reaches the process through kubectl port-forward.
func (p *process) portForwards() {
	p.Helper()
	ctx, cancel := context.WithCancel(p.ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.Kubectl, "-n", p.namespace, "port-forward", "pod/"+p.pod.Name, ":8080")
	cmd.Env = append(os.Environ(), "KUBECONFIG="+p.Kubeconfig)
	out, err := cmd.StdoutPipe()
	p.must(err)
	p.must(cmd.Start())
	defer func() { _ = cmd.Wait() }()
	defer cancel()
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if match := forwarded.FindStringSubmatch(lines.Text()); match != nil {
			status, err := harness.Memhog{Address: net.JoinHostPort("127.0.0.1", match[1])}.Status(ctx)
			if err != nil || status.BootID != p.status.BootID {
				p.Errorf("port-forward: %+v, %v", status, err)
			}
			return
		}
	}
	p.Errorf("kubectl port-forward said nothing of a port")
}

// probesWork makes the readiness probe fail and succeed again.
func (p *process) probesWork() {
	p.Helper()
	for _, step := range []struct {
		do    string
		ready bool
	}{{"touch /tmp/unready", false}, {"rm /tmp/unready", true}} {
		p.sh(p.pod.Name, step.do)
		pod := p.scenario.pod(p.pod.Name)
		p.must(p.AwaitFor(p.ctx, time.Minute, pod, "readiness after "+step.do, func(bool) (bool, error) {
			return harness.Ready(pod) == step.ready, nil
		}))
	}
}

// resizes changes the CPU limit in place, and looks for it in the cgroup.
func (p *process) resizes() {
	p.Helper()
	_, err := p.KubectlRun(p.ctx, "-n", p.namespace, "patch", "pod", p.pod.Name, "--subresource=resize",
		"--patch", `{"spec":{"containers":[{"name":"main","resources":{"limits":{"cpu":"1500m"}}}]}}`)
	p.must(err)
	node := p.look(p.pod)
	p.eventually("the new CPU limit", func() (bool, string) {
		quota, err := node.Read(p.ctx, "cpu.max")
		return quota == "150000 100000", fmt.Sprint(quota, err)
	})
	if now := p.scenario.pod(p.pod.Name); harness.Restarts(now) != 0 {
		p.Errorf("the resize restarted the container")
	}
}

// restartsAfresh kills the restored process. Its image set is used up, so the
// container starts from its image, as a new process.
func (p *process) restartsAfresh() {
	p.Helper()
	p.must(p.look(p.pod).Signal(p.ctx, "KILL"))
	pod := p.scenario.pod(p.pod.Name)
	p.must(p.AwaitFor(p.ctx, 3*time.Minute, pod, "the container to be restarted", func(bool) (bool, error) {
		return harness.Restarts(pod) == 1 && harness.Ready(pod), nil
	}))
	p.eventually("the new process to answer", func() (bool, string) {
		fresh, err := harness.MemhogAt(pod).Status(p.ctx)
		return err == nil && fresh.BootID != p.status.BootID, fmt.Sprint(fresh, err)
	})
}

// eventually looks again and again, for what no watch tells.
func (s *scenario) eventually(what string, look func() (bool, string)) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, 2*time.Minute)
	defer cancel()
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		done, seen := look()
		if done {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			s.Fatalf("waited for %s; last seen: %s", what, seen)
		}
	}
}
