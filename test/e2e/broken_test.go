// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"testing"

	"godwit.dev/godwit/api/v1alpha1"
	clusterclient "godwit.dev/godwit/test/cluster/client"
	"godwit.dev/godwit/test/harness"
)

// A page image disappears from the volume before the target has verified it:
// the target never commits, and the source goes on.
func TestRemovedImageFile(t *testing.T) {
	s := begin(t)
	p := s.memhog("careful")
	m := s.migration("move", p.pod.Name)
	s.await(m, "the target to be scheduled", func(m *v1alpha1.Migration) bool { return m.Status.Target != nil && m.Status.Target.NodeName != "" })

	// The target's agent is stopped, so that it is the file that comes first.
	release := s.hold(m.Status.Target.NodeName)
	s.await(m, "pre-copy to converge", harness.SourceState(v1alpha1.SourceConverged))
	// On the source's node, which wrote it: the target's NFS client may go on
	// for a while to say that there is no such directory.
	source, err := s.Nodes.Node(p.pod.Spec.NodeName)
	s.must(err)
	out, err := source.Output(s.ctx, fmt.Sprintf("find %s/%s -path '*/round-000/pages-*.img' -print -delete", harness.ImagesDir, m.UID))
	s.must(err)
	if out == "" {
		t.Fatal("there was no page image to remove")
	}
	release()

	s.finish(m, v1alpha1.PhaseFailed)
	if m.Status.Failure == nil || m.Status.Failure.Reason != v1alpha1.ReasonImageSetInvalid {
		t.Errorf("failure %+v, want %s", m.Status.Failure, v1alpha1.ReasonImageSetInvalid)
	}
	if h := m.Status.Handover; h == nil || h.State != v1alpha1.HandoverAborted {
		t.Errorf("hand-over %+v", h)
	}
	s.stayed(m, p.pod)
	p.unharmed()
}

// CRIU refuses to restore after the commit, since the program on the target is
// not the one that was running. Only the target's agent may take the commit
// back, and the frozen source goes on as if nothing had been.
func TestRestoreThatFails(t *testing.T) {
	s := begin(t)
	p := s.memhog("returner")
	m := s.migration("move", p.pod.Name)
	s.await(m, "the target to be scheduled", func(m *v1alpha1.Migration) bool { return m.Status.Target != nil && m.Status.Target.NodeName != "" })
	node, err := s.Nodes.Node(m.Status.Target.NodeName)
	s.must(err)
	s.spoilRestore(node, m)

	s.finish(m, v1alpha1.PhaseFailed)
	if m.Status.Failure == nil || m.Status.Failure.Reason != v1alpha1.ReasonRestoreFailed {
		t.Errorf("failure %+v, want %s", m.Status.Failure, v1alpha1.ReasonRestoreFailed)
	}
	h := m.Status.Handover
	if h == nil || h.State != v1alpha1.HandoverAborted || h.By != "target/"+node.Name {
		t.Errorf("hand-over %+v", h)
	}
	s.stayed(m, p.pod)
	if out, err := node.Output(s.ctx, "pgrep -x memhog || true"); err != nil || out != "" {
		t.Errorf("%s runs processes %s, %v", node.Name, out, err)
	}
	p.unharmed()
}

// spoilRestore makes CRIU refuse to restore on the node: while the create is
// parked the container's root file system is mounted, and the program in it, and
// in no other container, gets another size.
func (s *scenario) spoilRestore(node *clusterclient.Node, m *v1alpha1.Migration) {
	s.Helper()
	out, err := node.Output(s.ctx, fmt.Sprintf(`for i in $(seq 600); do
		for f in /run/containerd/io.containerd.runtime.v2.task/k8s.io/*/rootfs/usr/local/bin/memhog; do
			config=${f%%%%/rootfs/*}/config.json
			if [ -e "$f" ] && grep -q %s "$config"; then echo x >> "$f" && echo "$f" && exit; fi
		done
		sleep 0.2
	done; exit 1`, m.Status.Target.PodUID))
	s.must(err)
	s.Logf("changed %s", out)
}
