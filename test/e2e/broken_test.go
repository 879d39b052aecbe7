// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"testing"

	"k8s.io/utils/ptr"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/test/harness"
)

// A page image disappears from the volume before the target has verified it:
// the target never commits, and the source goes on.
func TestRemovedImageFile(t *testing.T) {
	s := begin(t)
	p := s.memhog("careful")
	// One round, so that the source does not wait for the target's reading to make another.
	m := s.migration("move", p.pod.Name, func(spec *v1alpha1.MigrationSpec) {
		spec.PreCopy.MaxRounds, spec.PreCopy.OnStall = ptr.To(int32(1)), v1alpha1.OnStallStopAndCopy
	})
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
