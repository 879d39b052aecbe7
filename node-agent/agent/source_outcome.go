// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/failpoint"
	"godwit.dev/godwit/internal/migration"
	"godwit.dev/godwit/node-agent/runtime"
)

// How a switchover ends for the source: it gives up, goes on, or is killed, and
// in the end nothing is left of it.

// resume lets the source go on after an abort.
func (s *sourceSession) resume(ctx context.Context, m *v1alpha1.Migration) (again, error) {
	if s.killed {
		return s.awaitSuccessor(ctx, m)
	}
	if err := s.letGo(ctx); err != nil {
		return never, err
	}
	failpoint.At("source-thawed")
	s.report.State = v1alpha1.SourceResumed
	pod, err := s.pod(ctx, m.Status.Source.PodRef)
	if err != nil {
		return never, err
	}
	// One that somebody deletes ends as it should.
	if name := s.processLost(); name != "" && pod != nil && pod.DeletionTimestamp == nil {
		s.failLost(m, name)
		return now, s.publish(ctx)
	}
	if s.report.FrozenAt != nil && s.report.ResumedAt == nil {
		s.report.ResumedAt = microTime(s.Now())
		s.event(m, evResumed)
	}
	return now, s.publish(ctx)
}

// letGo thaws all containers, connects the pod again and forgets the freeze.
func (s *sourceSession) letGo(ctx context.Context) error {
	if err := s.thaw(ctx, s.containers); err != nil {
		return err
	}
	return s.release(ctx, s.uid)
}

// tellPeers resets the connections of a pod that goes on elsewhere. Its clients would
// learn of that in minutes otherwise, or never if they only wait. It is a help to them:
// a failure delays nothing. Of connections that are kept nobody is told: only those that
// cannot be restored, since no process has them, end.
func (s *sourceSession) tellPeers(ctx context.Context, m *v1alpha1.Migration) {
	s.told = true
	tell := s.Node.Isolator.Reject
	if migration.KeepsConnections(m) {
		tell = s.Node.Isolator.Disown
	}
	for _, c := range s.containers {
		if err := tell(ctx, c); err != nil && !errors.Is(err, runtime.ErrNotFound) {
			s.log.Error(err, "the pod's peers are not told that their connections are gone", "container", c.Name)
		}
	}
}

// kill ends what kubelet has left of the source after the target was confirmed.
func (s *sourceSession) kill(ctx context.Context, m *v1alpha1.Migration) error {
	for _, c := range s.containers {
		if err := s.Node.Killer.Kill(ctx, c); err != nil {
			return fmt.Errorf("kill %s: %w", c.Name, err)
		}
	}
	if err := s.release(ctx, s.uid); err != nil {
		return err
	}
	failpoint.At("source-killed")
	s.report.State = v1alpha1.SourceKilled
	s.report.KilledAt = microTime(s.Now())
	status := m.Status
	status.Source = &v1alpha1.SourceStatus{SourceReport: s.report}
	if d := s.learn(&status); d != nil && d.Predicted != nil {
		downtimeOverPrediction.Observe(d.Total.Seconds() / d.Predicted.Seconds())
	}
	s.event(m, evKilled)
	return s.publish(ctx)
}

// clean removes the images and the node's traces. The source goes on already: a
// volume that is away delays nothing but the end of the migration.
func (s *sourceSession) clean(ctx context.Context, m *v1alpha1.Migration) error {
	if err := s.removeTraces(ctx); err != nil {
		if ctx.Err() == nil && !s.unclean {
			s.unclean = true
			s.event(m, evUnclean, err.Error())
		}
		return err
	}
	failpoint.At("source-cleaned")
	s.report.State = v1alpha1.SourceCleaned
	return s.publish(ctx)
}

// abortSwitchover gives a switchover up by writing the register. If the target
// has committed meanwhile, the write is refused and the source stays frozen.
func (s *sourceSession) abortSwitchover(ctx context.Context, m *v1alpha1.Migration) error {
	limit, byProbes := migration.SwitchoverLimit(m.Spec.SwitchoverTimeout.Duration, s.report.ProbeBudget)
	f := v1alpha1.Failure{Reason: v1alpha1.ReasonSwitchoverTimeout, Message: fmt.Sprintf(
		"the target did not commit within spec.switchoverTimeout (%s) of the freeze; see status.target", limit)}
	switch {
	case s.killed:
		f = *s.killedFailure()
	case s.report.State == v1alpha1.SourceDumped && byProbes:
		f = *budgetSpent(s.report.ProbeBudget)
	case s.report.State != v1alpha1.SourceDumped:
		f = v1alpha1.Failure{Reason: v1alpha1.ReasonAgentLost, Message: "the source agent restarted in the middle of the final dump"}
	}
	err := s.abort(ctx, roleSource, f)
	failpoint.At("source-aborted")
	if errors.Is(err, errRegisterTaken) {
		s.log.Info("did not win the register", "error", err.Error())
		return s.syncFrom(ctx)
	}
	return err
}

// syncFrom waits until the cache has what the live object has, so that the next
// look does not repeat a step on a stale register.
func (s *sourceSession) syncFrom(ctx context.Context) error {
	live, err := s.get(ctx, s.Live)
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		m, err := s.get(ctx, s.Client)
		if err != nil || (m.Status.Handover != nil) == (live.Status.Handover != nil) {
			return err
		}
		s.await(ctx, again(time.Second))
	}
	return ctx.Err()
}

// orphaned: the Migration was removed by force. What is held and cannot be let
// go now stays with the sweep, and so do the images then: the target may be
// restoring them.
func (s *sourceSession) orphaned(ctx context.Context) error {
	h, err := s.heldBy(s.uid)
	if err != nil {
		return err
	}
	if h != nil {
		if free, err := s.releaseOrphan(ctx, h); err != nil || !free {
			return err
		}
	}
	g, err := s.guardFor(s.uid)
	if err != nil {
		return err
	}
	if g != nil {
		if free, err := s.releaseGuarded(ctx, *g); err != nil || !free {
			return err
		}
	}
	return s.removeTraces(ctx)
}

// removeTraces removes the images and the work directories.
func (s *sourceSession) removeTraces(ctx context.Context) error {
	set, err := s.set()
	if err != nil {
		return err
	}
	_, err = onVolume(ctx, &s.sessionBase, volumeTimeout, "remove the images", func(ctx context.Context) (struct{}, error) {
		// A large set may take longer than is waited for here: the removal goes on.
		return struct{}{}, set.Remove(context.WithoutCancel(ctx))
	})
	return errors.Join(err, s.removeWork(), s.release(ctx, s.uid))
}
