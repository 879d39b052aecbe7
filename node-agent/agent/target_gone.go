// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/wire"
	"godwit.dev/godwit/node-agent/runtime"
)

// killInterval is when to look again whether killed containers are gone:
// containerd tells of an exit only those who wait for it.
const killInterval = 200 * time.Millisecond

// killRestored ends containers that were restored, and says whether none of
// them runs. They are containerd's like any others, so it is containerd who
// knows them. kubelet may try to start them again until their pod is gone; the
// wrapper fails that under an aborted register.
func (t *targetSession) killRestored(ctx context.Context) (gone bool, err error) {
	cs, err := t.Node.Finder.Containers(ctx, t.podUID)
	if errors.Is(err, runtime.ErrNotFound) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("find what was restored: %w", err)
	}
	gone = true
	for _, c := range cs {
		if !t.consumed(t.podUID, c.Name) && !t.stoodStill(t.podUID, c.Name) {
			continue // a restore that failed: that is discarded
		}
		gone = false
		if err := t.Node.Killer.Kill(ctx, c); err != nil {
			return false, fmt.Errorf("kill what was restored of %s: %w", c.Name, err)
		}
	}
	return gone, nil
}

// howLost says how what was restored came to be gone, as far as it is known.
func (t *targetSession) howLost() string {
	if t.report.BootID != "" && t.report.BootID != t.BootID {
		return "the node restarted after the commit: whether the pod has run there nobody knows, and nothing of it is left"
	}
	for _, name := range t.containers {
		if mark, found, err := wire.Mark(t.RunDir, t.podUID, name); err == nil && found && mark.Error != "" {
			return fmt.Sprintf("container %s may have run before its restore failed: %s", name, mark.Error)
		}
	}
	return "the restored pod has run, or may have, and nothing of it is left on the node"
}

// reportGone publishes that nothing is left of the pod that ran here, or may have.
func (t *targetSession) reportGone(ctx context.Context) error {
	t.giveBack(v1alpha1.ReasonProcessLost, "what was restored is lost")
	t.report.TreeGoneAt = microTime(t.Now())
	if t.report.Failure == nil {
		t.report.Failure = &v1alpha1.Failure{Reason: v1alpha1.ReasonProcessLost, Message: t.howLost()}
	}
	failures.WithLabelValues(string(roleTarget), v1alpha1.ReasonProcessLost).Inc()
	return t.publish(ctx)
}

// provedGone says whether it is on record that nothing is left of the restored
// tree: this very agent has taken the commit back.
func (t *targetSession) provedGone(h *v1alpha1.Handover) bool {
	return t.treeGone || t.report.State == v1alpha1.TargetReverted ||
		h != nil && h.State == v1alpha1.HandoverAborted && h.By == string(roleTarget)+"/"+t.NodeName
}
