// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/migration"
	"godwit.dev/godwit/node-agent/runtime"
)

// dirtyInterval is how often the dirty memory is looked at while a converged
// source waits for the target.
const dirtyInterval = time.Second

// sourceSession is the loop on the node the pod leaves.
type sourceSession struct {
	sessionBase

	// report is what was or will be published. It is loaded from the API when
	// the session begins and is ahead of the cache afterwards.
	report v1alpha1.SourceReport
	loaded bool
	// containers of the pod, looked up again on every step outside the freeze.
	containers []runtime.Container
	// chainBroken: the soft-dirty bits no longer tell what changed since the
	// last recorded round, so the next dump must be a full one.
	chainBroken bool
	// dirty memory as last counted, and the decision on it.
	dirty       int64
	convergence migration.Convergence
	sharedBytes int64
	// publishAttempted: the digest may have reached the API, so from here only
	// the register decides.
	publishAttempted bool
	// killed as last observed: the frozen containers are gone.
	killed bool
	// guarded is the UID of the pod whose new containers the node refuses.
	guarded   string
	publisher publisher
}

func (s *sourceSession) run(ctx context.Context) {
	s.publisher.apply = func(ctx context.Context, r v1alpha1.SourceReport) error {
		return s.apply(ctx, "source", v1alpha1.FieldManagerSource, &r)
	}
	s.loop(ctx, s.step)
}

func (s *sourceSession) step(ctx context.Context) (again, bool, error) {
	m, err := s.get(ctx, s.Client)
	if errors.Is(err, errGone) {
		return never, true, s.orphaned(ctx)
	}
	if err != nil {
		return never, false, err
	}
	if !s.loaded {
		if err := s.load(ctx); err != nil {
			return never, false, err
		}
	}
	o, err := s.observe(ctx, m)
	if err != nil {
		return never, false, err
	}
	action := migration.DecideSource(o)
	s.log.V(2).Info("decided", "action", action, "phase", m.Status.Phase, "state", s.report.State, "frozen", o.Frozen)
	if action == migration.SourceIdle {
		return never, !o.Frozen && (!sourceNeeded(m) || s.report.State == v1alpha1.SourceCleaned), nil
	}
	next, err := s.act(ctx, m, o, action)
	return next, false, err
}

// load reads the agent's own last report past the cache: after a restart the
// cache could be older than what this node has already done.
func (s *sourceSession) load(ctx context.Context) error {
	m, err := s.get(ctx, s.Live)
	if err != nil {
		return err
	}
	if m.Status.Source != nil {
		s.report = m.Status.Source.SourceReport
	}
	if n := s.rounds(); n > 0 {
		set, err := s.set()
		if err != nil {
			return err
		}
		// A round that is on the volume but not in the report was cut off by a
		// restart: its dump has cleared the soft-dirty bits, its images cannot be
		// trusted.
		for _, c := range s.report.Containers {
			dir, err := set.RoundDir(c.Name, int(n))
			if err != nil {
				return err
			}
			if _, err := os.Stat(dir); err == nil {
				s.chainBroken = true
			}
		}
	}
	if n := len(s.report.Containers); n > 0 {
		for _, c := range s.report.Containers {
			if r := len(c.Rounds); r > 0 {
				s.dirty += c.Rounds[r-1].DirtyBytes
			}
		}
	}
	s.publishAttempted = s.report.ManifestDigest != ""
	s.loaded = true
	return nil
}

// observe gathers what DecideSource looks at.
func (s *sourceSession) observe(ctx context.Context, m *v1alpha1.Migration) (migration.SourceObservation, error) {
	o := migration.SourceObservation{
		Phase:         m.Status.Phase,
		Report:        s.report,
		MaxRounds:     *m.Spec.PreCopy.MaxRounds,
		DirtyTracking: s.report.DirtyTracking == nil || *s.report.DirtyTracking,
		Verdict:       s.convergence.Verdict,
	}
	o.SwitchoverTimeout, _ = migration.SwitchoverLimit(m.Spec.SwitchoverTimeout.Duration, s.report.ProbeBudget)
	if h := m.Status.Handover; h != nil {
		o.Handover = h.State
	}
	if s.report.FrozenAt != nil {
		o.FrozenFor = s.Now().Sub(s.report.FrozenAt.Time)
	}
	pod, err := s.pod(ctx, m.Status.Source.PodRef)
	if err != nil {
		return o, err
	}
	o.PodGone = pod == nil
	cs, err := s.Node.Finder.Containers(ctx, string(m.Status.Source.PodUID))
	switch {
	case errors.Is(err, runtime.ErrNotFound):
		s.containers = nil
	case err != nil:
		return o, fmt.Errorf("find the pod's containers: %w", err)
	default:
		s.containers = cs
	}
	for _, c := range s.containers {
		frozen, err := s.Node.Freezer.Frozen(ctx, c)
		if err != nil && !errors.Is(err, runtime.ErrNotFound) {
			return o, fmt.Errorf("freezer state of %s: %w", c.Name, err)
		}
		o.Frozen = o.Frozen || frozen
	}
	o.Killed = s.wasKilled(pod)
	s.killed = o.Killed
	s.fence(m, o)
	o.Refresh = s.refreshPays()
	return o, nil
}

func (s *sourceSession) act(ctx context.Context, m *v1alpha1.Migration, o migration.SourceObservation, action migration.SourceAction) (again, error) {
	switch action {
	case migration.SourcePreflight:
		return now, s.preflight(ctx, m)
	case migration.SourceConverge:
		return now, s.convergeWithoutRounds(ctx, m)
	case migration.SourceRound:
		return now, s.preCopyRound(ctx, m)
	case migration.SourceAwaitArm:
		return again(dirtyInterval), s.recount(ctx, m)
	case migration.SourceSwitchover:
		return now, s.switchover(ctx, m)
	case migration.SourceAwaitCommit:
		return again(o.SwitchoverTimeout - o.FrozenFor + time.Millisecond), nil
	case migration.SourceAbort:
		return now, s.abortSwitchover(ctx, m)
	case migration.SourceReportKilled:
		return now, s.reportKilled(ctx, m)
	case migration.SourceResume:
		return s.resume(ctx, m)
	case migration.SourceKill:
		return now, s.kill(ctx, m)
	case migration.SourceClean:
		return now, s.clean(ctx)
	}
	return never, fmt.Errorf("unknown action %q", action)
}

// publish applies the report and waits until it is stored.
func (s *sourceSession) publish(ctx context.Context) error {
	return s.publisher.publish(ctx, *s.report.DeepCopy())
}

// fail reports that the source gives up; the controller rolls back.
// A step that failed because the agent is going down is no failure.
func (s *sourceSession) fail(ctx context.Context, m *v1alpha1.Migration, reason, container string, cause error) error {
	if ctx.Err() != nil {
		return ctx.Err() // the agent is going down; its successor goes on
	}
	s.log.Error(cause, "giving up", "reason", reason, "container", container)
	if errors.Is(cause, runtime.ErrNoSpace) {
		reason = v1alpha1.ReasonNoSpace
	}
	f := v1alpha1.Failure{Reason: reason, Container: container, Message: cause.Error()}
	s.report.Failure = &f
	failures.WithLabelValues(string(roleSource), reason).Inc()
	countRefusal(cause)
	s.event(m, evFailed, reason, cause.Error())
	return s.publish(ctx)
}

// resume lets the source go on after an abort.
func (s *sourceSession) resume(ctx context.Context, m *v1alpha1.Migration) (again, error) {
	if s.killed {
		return s.awaitSuccessor(ctx, m)
	}
	if err := s.thaw(ctx); err != nil {
		return never, err
	}
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

// thaw lets all containers go on and connects the pod again; repeatable.
func (s *sourceSession) thaw(ctx context.Context) error {
	var errs []error
	for _, c := range s.containers {
		if err := s.Node.Freezer.Thaw(ctx, c); err != nil && !errors.Is(err, runtime.ErrNotFound) {
			errs = append(errs, fmt.Errorf("thaw %s: %w", c.Name, err))
		}
	}
	for _, c := range s.containers {
		if err := s.Node.Isolator.Connect(ctx, c); err != nil && !errors.Is(err, runtime.ErrNotFound) {
			errs = append(errs, fmt.Errorf("connect %s: %w", c.Name, err))
		}
	}
	return errors.Join(errs...)
}

// kill ends what kubelet has left of the source after the target was confirmed.
func (s *sourceSession) kill(ctx context.Context, m *v1alpha1.Migration) error {
	for _, c := range s.containers {
		if err := s.Node.Killer.Kill(ctx, c); err != nil {
			return fmt.Errorf("kill %s: %w", c.Name, err)
		}
	}
	s.report.State = v1alpha1.SourceKilled
	s.report.KilledAt = microTime(s.Now())
	s.learn(m)
	s.event(m, evKilled)
	return s.publish(ctx)
}

// clean removes the images and the node's traces.
func (s *sourceSession) clean(ctx context.Context) error {
	if err := s.removeTraces(ctx); err != nil {
		return err
	}
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

// orphaned: the Migration was removed by force. The pod goes on if the target
// cannot have been told to restore; otherwise only a person can know.
func (s *sourceSession) orphaned(ctx context.Context) error {
	if !s.loaded {
		return nil
	}
	if !s.publishAttempted || len(s.containers) == 0 {
		s.unfence()
	}
	if s.publishAttempted {
		s.log.Error(errGone, "the Migration was removed during its switchover; if tasks of the pod are frozen, they stay so until a person decides", "pod containers", len(s.containers))
		return nil
	}
	if err := s.thaw(ctx); err != nil {
		return err
	}
	return s.removeTraces(ctx)
}

// removeTraces removes the images and the work directories.
func (s *sourceSession) removeTraces(ctx context.Context) error {
	set, err := s.set()
	if err != nil {
		return err
	}
	return errors.Join(set.Remove(ctx), s.removeWork())
}

func (s *sourceSession) rounds() int32 {
	if s.report.Round == nil {
		return 0
	}
	return *s.report.Round
}

func duration(d time.Duration) metav1.Duration { return metav1.Duration{Duration: d} }
