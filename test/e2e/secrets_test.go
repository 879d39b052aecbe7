// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"strings"
	"testing"

	"godwit.dev/godwit/api/v1alpha1"
	clusterclient "godwit.dev/godwit/test/cluster/client"
	"godwit.dev/godwit/test/harness"
)

// Images hold what the process had in its memory. While they are needed nobody
// but root can come at them, and however the migration ends, nothing of them is
// left on the volume or on a node.
func TestSecretsDoNotStay(t *testing.T) {
	s := begin(t)
	p := s.memhog("keeper")
	// The process has drawn it at random when it started, and keeps it in its
	// memory. It has been written nowhere.
	secret := p.status.BootID
	if len(secret) < 16 {
		t.Fatalf("%q is no secret", secret)
	}
	s.nowhere(secret)
	target, err := s.Nodes.Node("n1")
	s.must(err)
	if p.pod.Spec.NodeName == target.Name {
		target, err = s.Nodes.Node("n2")
		s.must(err)
	}

	// exposed takes a migration to where the whole image set is on the volume,
	// and holds it there by the target's agent standing still.
	exposed := func(name string) (m *v1alpha1.Migration, release func()) {
		s.Helper()
		m = s.migration(name, p.pod.Name)
		s.await(m, "the target to be parked", harness.TargetState(v1alpha1.TargetParked))
		release = s.hold(target.Name)
		s.await(m, "the final dump", harness.SourceState(v1alpha1.SourceDumped))
		s.guarded(m, secret)
		return m, release
	}
	s.step("cancelled", func() {
		m, release := exposed("cancelled")
		s.must(s.Cancel(s.ctx, m))
		s.await(m, "the rollback", harness.InPhase(v1alpha1.PhaseRollingBack))
		release()
		s.finish(m, v1alpha1.PhaseCancelled)
		s.stayed(m, p.pod)
		s.nowhere(secret)
		p.unharmed()
	})
	s.step("taken back", func() {
		m, release := exposed("taken-back")
		s.spoilRestore(target, m)
		release()
		s.finish(m, v1alpha1.PhaseFailed)
		if f := m.Status.Failure; f == nil || f.Reason != v1alpha1.ReasonRestoreFailed {
			s.Errorf("failure %+v, want %s", f, v1alpha1.ReasonRestoreFailed)
		}
		// Only the target's agent may take the commit back, once nothing runs there.
		if h := m.Status.Handover; h == nil || h.State != v1alpha1.HandoverAborted || h.By != "target/"+target.Name {
			s.Errorf("hand-over %+v", h)
		}
		s.stayed(m, p.pod)
		if out, err := target.Output(s.ctx, "! grep -l "+strings.ReplaceAll(string(m.Status.Target.PodUID), "-", "_")+" /proc/[0-9]*/cgroup 2>/dev/null"); err != nil {
			s.Errorf("%s still runs processes of the target: %s, %v", target.Name, out, err)
		}
		s.nowhere(secret)
		p.unharmed()
	})
	s.step("succeeded", func() {
		m, release := exposed("succeeded")
		release()
		p.continues(s.arrived(m))
		s.nothingLeft(m)
		s.nowhere(secret)
	})
}

// guarded checks that the secret is in the images, else not finding it later
// would say nothing, and that only root can read them.
func (s *scenario) guarded(m *v1alpha1.Migration, secret string) {
	s.Helper()
	set := string(m.UID)
	found, err := s.VolumeFilesWith(s.ctx, secret)
	s.must(err)
	if len(found) == 0 {
		s.Fatal("the images do not hold what was in memory: this test cannot tell anything")
	}
	for _, name := range found {
		if !strings.HasPrefix(name, set+"/") {
			s.Errorf("%s holds the secret, outside the image set %s", name, set)
		}
	}
	s.Logf("the secret is in %s", found)
	open, err := s.VolumeDirsOpenToOthers(s.ctx, set)
	s.must(err)
	if len(open) > 0 {
		s.Errorf("directories that are not only root's: %s", open)
	}
	for _, n := range s.Nodes.Nodes() {
		if found, err := harness.NodeFilesWith(s.ctx, n, "/run/godwit", secret); err != nil || len(found) == 0 {
			s.Errorf("%s does not see the images: %v", n.Name, err)
		}
		out, err := n.Output(s.ctx, "! LC_ALL=C setpriv --reuid=65534 --regid=65534 --clear-groups ls "+harness.ImagesDir+"/"+set+" 2>&1")
		if err != nil || !strings.Contains(out, "Permission denied") {
			s.Errorf("%s lets anybody list the images: %s, %v", n.Name, out, err)
		}
		out, err = n.Output(s.ctx, "! test -e /run/godwit/work || find /run/godwit/work -type d -perm /077")
		if err != nil || out != "" {
			s.Errorf("%s has open work directories: %s, %v", n.Name, out, err)
		}
	}
}

// nowhere checks that the secret is neither on the volume nor in what Godwit has
// on the nodes.
func (s *scenario) nowhere(secret string) {
	s.Helper()
	found, err := s.VolumeFilesWith(s.ctx, secret)
	s.must(err)
	if len(found) > 0 {
		s.Errorf("the volume still holds the secret, in %s", found)
	}
	for _, n := range s.Nodes.Nodes() {
		found, err := harness.NodeFilesWith(s.ctx, n, "/run/godwit", secret)
		s.must(err)
		if len(found) > 0 {
			s.Errorf("%s still holds the secret, in %s", n.Name, found)
		}
	}
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
