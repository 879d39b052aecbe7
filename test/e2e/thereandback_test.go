// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"k8s.io/utils/ptr"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/test/harness"
)

// A process moves to the other node and back. With it go the changes in its
// container's root file system and the content of /dev/shm. kubectl alone tells
// how it went. The way back is a single dump. The nodes place programs at random,
// as nodes do, so that memory at the same addresses is no accident.
func TestThereAndBack(t *testing.T) {
	s := begin(t)
	s.randomizeAddresses()
	p := s.memhog("traveller")
	s.writeFiles(p.pod.Name)
	home := p.pod.Spec.NodeName

	m := s.migration("there", p.pod.Name, func(spec *v1alpha1.MigrationSpec) { spec.TargetPodName = "abroad" })
	p.continues(s.arrived(m))
	if p.pod.Name != "abroad" {
		t.Errorf("the target is called %s", p.pod.Name)
	}
	if n := len(m.Status.Source.Containers[0].Rounds); n == 0 {
		t.Errorf("there was no round of pre-copy\n%s", harness.Summary(m))
	}
	s.checkFiles(p.pod.Name)
	s.wasMerged(m)
	p.hasSmallPages()
	s.tellsTheStory(m, p.pod)

	m = s.migration("back", p.pod.Name, func(spec *v1alpha1.MigrationSpec) {
		spec.TargetNode = home
		spec.PreCopy.MaxRounds = ptr.To(int32(0))
	})
	p.continues(s.arrived(m))
	if p.pod.Spec.NodeName != home {
		t.Errorf("the pod is on %s, not back on %s", p.pod.Spec.NodeName, home)
	}
	if c := m.Status.Source.Containers[0]; len(c.Rounds) != 0 || c.FinalDump == nil || c.FinalDump.MemoryBytes < 32<<20 {
		t.Errorf("maxRounds 0 gave %d rounds and the final dump %+v", len(c.Rounds), c.FinalDump)
	}
	s.checkFiles(p.pod.Name)
	s.nothingLeft(m)
}

// wasMerged checks that the rounds had become one dump when they were restored.
func (s *scenario) wasMerged(m *v1alpha1.Migration) {
	s.Helper()
	out, err := s.KubectlRun(s.ctx, "-n", harness.Namespace, "logs", "-l", "app.kubernetes.io/component=agent", "--tail=-1")
	s.must(err)
	said := slices.DeleteFunc(strings.Split(out, "\n"), func(line string) bool {
		return !strings.Contains(line, string(m.UID)) || !strings.Contains(line, "restoring from")
	})
	if len(said) != 1 || !strings.Contains(said[0], "from the merged rounds") || !strings.Contains(said[0], `Processes":1`) {
		s.Errorf("the agents said of the restore: %q", said)
	}
}

// hasSmallPages checks that the process can be moved again: with huge pages all that it
// has would be dirty in every round.
func (p *process) hasSmallPages() {
	p.Helper()
	node := p.look(p.pod)
	pids, err := node.Processes(p.ctx)
	p.must(err)
	for _, pid := range pids {
		out, err := node.Output(p.ctx, fmt.Sprintf("awk '/^AnonHugePages:/ { print $2 }' /proc/%d/smaps_rollup", pid))
		p.must(err)
		// What the program has asked for since is its own affair.
		if kib, err := strconv.Atoi(strings.TrimSpace(out)); err != nil || kib > 8<<10 {
			p.Errorf("process %d has %q KiB of huge pages", pid, out)
		}
	}
}

// randomizeAddresses turns address space randomization on until the test ends.
func (s *scenario) randomizeAddresses() {
	s.Helper()
	for _, n := range s.Nodes.Nodes() {
		const knob = "/proc/sys/kernel/randomize_va_space"
		was, err := n.Output(s.ctx, "cat "+knob+"; echo 2 > "+knob)
		s.must(err)
		s.Cleanup(func() {
			_, err := n.Output(context.WithoutCancel(s.ctx), "echo "+was+" > "+knob)
			s.must(err)
		})
	}
}

// writeFiles changes the root file system in the ways that differ: a new file,
// one of the image removed, a link, a directory with a mode of its own.
func (s *scenario) writeFiles(pod string) {
	s.Helper()
	s.sh(pod, `set -e; echo content > /data/new; ln -s new /data/link; mkdir -m 700 /data/dir; echo in > /data/dir/inner
		head -c 300000 /dev/urandom > /data/random; head -c 200000 /dev/urandom > /dev/shm/shared
		sha256sum /data/random /dev/shm/shared > /data/sums`)
}

func (s *scenario) checkFiles(pod string) {
	s.Helper()
	out := s.sh(pod, `cat /data/new /data/link /data/dir/inner; stat -c %a /data/dir; sha256sum -c /data/sums`)
	want := []string{"content", "content", "in", "700", "/data/random: OK", "/dev/shm/shared: OK"}
	if got := strings.Split(strings.TrimSpace(out), "\n"); strings.Join(got, "|") != strings.Join(want, "|") {
		s.Errorf("files in %s: %q, want %q", pod, got, want)
	}
}

// sh runs a script in a pod.
func (s *scenario) sh(pod, script string) string {
	s.Helper()
	out, err := s.KubectlRun(s.ctx, "-n", s.namespace, "exec", pod, "--", "sh", "-c", script)
	s.must(err)
	return out
}
