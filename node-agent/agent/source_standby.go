// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/migration"
	"godwit.dev/godwit/node-agent/images"
	"godwit.dev/godwit/node-agent/runtime"
)

// standBy starts the final dumps of a source that was armed. The pod runs on, and each
// dump waits for the freeze before it looks at a task.
func (s *sourceSession) standBy(ctx context.Context, m *v1alpha1.Migration) error {
	if err := errors.Join(s.sameContainers(), s.remembered()); err != nil {
		return s.fail(ctx, m, v1alpha1.ReasonSourceChanged, "", err)
	}
	set, err := s.set()
	if err != nil {
		return err
	}
	prepared, err := s.prepareFinal(ctx, m, set)
	if errors.Is(err, errStuck) {
		return err
	}
	if err != nil {
		return s.fail(ctx, m, v1alpha1.ReasonFinalDumpFailed, "", err)
	}
	limit := m.Spec.PreCopy.RoundTimeout.Duration
	late := fmt.Errorf("runc and CRIU were not ready for the final dump within preCopy.roundTimeout (%s); the pod was not frozen; look at the node's load and the volume", limit)
	s.lastFiles = prepared.files
	s.standby = startStandby(ctx, prepared.dumps, limit, late, func(ctx context.Context, d *finalDump) (err error) {
		d.stats, err = s.Node.Checkpointer.Dump(ctx, d.container, d.options)
		return err
	}, s.notify)
	return nil
}

// buildOn makes the final dumps, which stand ready, build on round k.
func (s *sourceSession) buildOn(containers []runtime.Container, k int) error {
	set, err := s.set()
	if err != nil {
		return err
	}
	for _, c := range containers {
		if err := set.StageRound(c.Name, k); err != nil {
			return err
		}
	}
	return s.standby.rebase(images.Parent(k + 1))
}

// awaitReady lets the target prepare its restore once all dumps stand ready, and looks
// whether they have come to an end instead.
func (s *sourceSession) awaitReady(ctx context.Context, m *v1alpha1.Migration) (again, error) {
	if s.standby.isReady() {
		s.shareDescriptors(ctx)
		s.tellReady(ctx)
	}
	if !s.standby.hasEnded() {
		return again(dirtyInterval), nil
	}
	err := s.standby.err
	if err == nil {
		err = errors.New("the final dump has ended before the freeze")
	}
	s.standby = nil
	return now, s.fail(ctx, m, v1alpha1.ReasonFinalDumpFailed, "", err)
}

// shareDescriptors brings to the volume, once, what the target prepares its restore with.
// Without it the target does that in the freeze.
func (s *sourceSession) shareDescriptors(ctx context.Context) {
	if s.report.State == v1alpha1.SourceReady {
		return
	}
	_, err := onVolume(ctx, &s.sessionBase, prepareTimeout, "share the descriptors", func(ctx context.Context) (struct{}, error) {
		set, err := s.set()
		for _, d := range s.standby.dumps {
			if err == nil {
				err = set.ShareDescriptors(ctx, d.container.Name)
			}
		}
		return struct{}{}, err
	})
	if err != nil {
		s.log.Info("the target cannot prepare its restore", "reason", err.Error())
	}
}

// preparing: the dumps stand ready, and the target does what can be done of its restore
// before the images are complete. In the freeze that would delay the dumps where both want
// the same (the volume, or processors, as on nodes that share them); the pod runs on until
// it is done. It is worth prepareTimeout, or a part of the time for which the create waits.
func (s *sourceSession) preparing(m *v1alpha1.Migration) bool {
	t := m.Status.Target
	if t == nil || t.PreparedAt != nil || migration.IsPlaceholder(m) {
		return false
	}
	if s.watch.standingAt.IsZero() {
		s.watch.standingAt = s.Now()
	}
	return s.Now().Sub(s.watch.standingAt) < min(prepareTimeout, s.Timeouts.Park/10)
}

// dismissStandby ends dumps that stand ready and are not needed.
func (s *sourceSession) dismissStandby() {
	if s.standby != nil {
		s.standby.dismiss(errDismissed)
		s.standby = nil
	}
}
