// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/migration"
	"godwit.dev/godwit/node-agent/runtime"
)

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
	// watch of the dirty memory, and the last decision on the moment of the freeze;
	// chosen is what is to be told of it, "" when nothing is.
	watch  dirtyWatch
	moment migration.Moment
	chosen string
	// publishAttempted: the digest may have reached the API, so from here only
	// the register decides.
	publishAttempted bool
	// copied is what was copied of the files, up to the last round that was recorded.
	copied map[treeKey]runtime.Copied
	// lastFiles is the copying of files that an armed source is prepared for.
	lastFiles *fileCopy
	// killed as last observed: the frozen containers are gone.
	killed bool
	// fenced is the node's record that it refuses the pod's new containers, as it was
	// when this session began; nil when there was none.
	fenced    *runtime.Guarded
	publisher publisher
	// standby are the final dumps of an armed source, nil when none were started.
	standby *standby
	// cpu that the containers, by id, had used when the last round began.
	cpu map[string]cpuUse
	// settled: no dump of an earlier agent runs any more.
	settled bool
	// told: the peers of a pod that was handed over know that it is gone from here.
	told bool
	// unclean: an event has said that the images cannot be removed.
	unclean bool
}

func (s *sourceSession) run(ctx context.Context) {
	s.publisher.apply = func(ctx context.Context, r v1alpha1.SourceReport) error {
		return s.apply(ctx, "source", v1alpha1.FieldManagerSource, &r)
	}
	defer s.dismissStandby()
	s.loop(ctx, s.step)
}

func (s *sourceSession) step(ctx context.Context) (again, bool, error) {
	m, err := s.get(ctx, s.Client)
	if errors.Is(err, errGone) {
		s.dismissStandby()
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
	if !action.Armed() {
		s.dismissStandby()
	}
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
	h, err := s.heldBy(s.uid)
	if err != nil {
		return err
	}
	if n := s.rounds(); n > 0 {
		// A round that is on the volume but not in the report was cut off by a
		// restart: its dump has cleared the soft-dirty bits, its images cannot be
		// trusted. A volume that does not answer must not keep a frozen pod from
		// being let go: then the chain counts as broken.
		begun, err := s.roundBegun(ctx, int(n))
		if ctx.Err() != nil {
			return ctx.Err()
		}
		s.chainBroken = begun || err != nil
	}
	s.chainBroken = s.chainBroken || h != nil
	if n := len(s.report.Containers); n > 0 {
		for _, c := range s.report.Containers {
			if r := len(c.Rounds); r > 0 {
				s.dirty += c.Rounds[r-1].DirtyBytes
			}
		}
	}
	if err := s.loadCopied(); err != nil {
		// What needs it fails.
		s.log.Error(err, "the rounds cannot be gone on with")
	}
	if s.fenced, err = s.guardFor(s.uid); err != nil {
		return err
	}
	s.publishAttempted = s.report.ManifestDigest != "" || h != nil && h.Published
	s.loaded = true
	return nil
}

// roundBegun says whether round k of a container is on the volume.
func (s *sourceSession) roundBegun(ctx context.Context, k int) (bool, error) {
	set, err := s.set()
	if err != nil {
		return false, err
	}
	var dirs []string
	for _, c := range s.report.Containers {
		dir, err := set.RoundDir(c.Name, k)
		if err != nil {
			return false, err
		}
		dirs = append(dirs, dir)
	}
	return onVolume(ctx, &s.sessionBase, volumeTimeout, "look for a broken round", func(context.Context) (bool, error) {
		for _, dir := range dirs {
			if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
				return true, err
			}
		}
		return false, nil
	})
}

// observe gathers what DecideSource looks at.
func (s *sourceSession) observe(ctx context.Context, m *v1alpha1.Migration) (migration.SourceObservation, error) {
	o := migration.SourceObservation{
		Phase:         m.Status.Phase,
		Report:        s.report,
		MaxRounds:     *m.Spec.PreCopy.MaxRounds,
		DirtyTracking: s.report.DirtyTracking == nil || *s.report.DirtyTracking,
		Verdict:       s.convergence.Verdict,
		ChainBroken:   s.chainBroken,
		Standing:      s.standby != nil,
		Ready:         s.standby != nil && s.standby.isReady() && !s.preparing(m),
		PeersTold:     s.told,
		Refreshed:     s.refreshed(),
		Gated:         gated(m.Status.Target),
		TargetReads:   s.targetBehind(m.Status.Target),
	}
	if s.hurried(s.preCopyInput(m)) {
		o.MaxRounds = min(o.MaxRounds, s.rounds()-1)
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
		s.containers = inOrder(cs, pod, s.report.Containers)
	}
	h, err := s.heldBy(s.uid)
	if err != nil {
		return o, err
	}
	if err := s.settleEarlier(ctx, m, h); err != nil {
		return o, err
	}
	// A pod that is only cut off yet is as good as frozen.
	o.Frozen = h != nil && len(s.containers) > 0
	for _, c := range s.containers {
		frozen, err := s.Node.Freezer.Frozen(ctx, c)
		if err != nil && !errors.Is(err, runtime.ErrNotFound) {
			return o, fmt.Errorf("freezer state of %s: %w", c.Name, err)
		}
		o.Frozen = o.Frozen || frozen
	}
	o.Killed = s.wasKilled(pod) || pod != nil && s.lostPower() && len(s.containers) == 0
	s.killed = o.Killed
	s.fence(m, o)
	if o.Moment, err = s.chooseMoment(ctx, m, o); err != nil {
		return o, err
	}
	if o.Ready && !s.refreshed() {
		// What was decided when the target was waited for may not hold any more.
		s.convergence = migration.Converge(s.preCopyInput(m))
		o.Verdict = s.convergence.Verdict
	}
	return o, nil
}

// settleEarlier waits, once, for dumps that an agent before this one has begun:
// while one runs nothing may be thawed, frozen or dumped.
func (s *sourceSession) settleEarlier(ctx context.Context, m *v1alpha1.Migration, h *held) error {
	if s.settled || len(s.containers) == 0 {
		return nil
	}
	if h == nil { // a pre-dump, if anything
		h = &held{Deadline: time.Now().Add(m.Spec.PreCopy.RoundTimeout.Duration)}
	}
	if err := s.settle(ctx, s.containers, h); err != nil {
		return err
	}
	s.settled = true
	return nil
}

func (s *sourceSession) act(ctx context.Context, m *v1alpha1.Migration, o migration.SourceObservation, action migration.SourceAction) (again, error) {
	switch action {
	case migration.SourcePreflight:
		return now, s.preflight(ctx, m)
	case migration.SourceConverge:
		if s.rounds() > 0 {
			s.decideConvergence(m)
			return now, s.publish(ctx)
		}
		return now, s.convergeWithoutRounds(ctx, m)
	case migration.SourceRound:
		s.tellMoment(m)
		if o.Ready {
			s.tellReady(ctx)
		}
		if o.Gated && !o.TargetReads {
			s.watch.before = s.dirty
		}
		return now, s.preCopyRound(ctx, m)
	case migration.SourceCatchUp:
		s.report.State = v1alpha1.SourcePreCopying
		return now, s.publish(ctx)
	case migration.SourceAwaitArm, migration.SourceAwaitTarget:
		return s.awaitArm(ctx, m)
	case migration.SourceStandBy:
		return again(dirtyInterval), s.standBy(ctx, m)
	case migration.SourceAwaitReady:
		return s.awaitReady(ctx, m)
	case migration.SourceAwaitMoment:
		s.tellReady(ctx)
		return soon(s.moment.Wait), nil
	case migration.SourceStall:
		s.decideConvergence(m)
		return now, s.publish(ctx)
	case migration.SourceSwitchover:
		s.tellMoment(m)
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
	case migration.SourceTellPeers:
		s.tellPeers(ctx, m)
		return now, nil
	case migration.SourceClean:
		return now, s.clean(ctx, m)
	}
	return never, fmt.Errorf("unknown action %q", action)
}

// publish applies the report and waits until it is stored.
func (s *sourceSession) publish(ctx context.Context) error {
	return s.publisher.publish(ctx, *s.report.DeepCopy())
}

// tellReady lets the target know, without waiting for it, that the freeze is near.
func (s *sourceSession) tellReady(ctx context.Context) {
	if s.report.State != v1alpha1.SourceReady {
		s.report.State = v1alpha1.SourceReady
		s.publisher.publishSoon(ctx, *s.report.DeepCopy(), s.log)
	}
}

// fail reports that the source gives up; the controller rolls back.
// A step that failed because the agent is going down is no failure.
func (s *sourceSession) fail(ctx context.Context, m *v1alpha1.Migration, reason, container string, cause error) error {
	if ctx.Err() != nil {
		return ctx.Err() // the agent is going down; its successor goes on
	}
	s.log.Error(cause, "giving up", "reason", reason, "container", container)
	if err := s.unthrottle(ctx, s.uid); err != nil {
		s.log.Error(err, "tried again when the migration ends")
	}
	message := cause.Error()
	if isNoSpace(cause) {
		reason, message = v1alpha1.ReasonNoSpace, noSpaceRemedy+message
	}
	f := v1alpha1.Failure{Reason: reason, Container: container, Message: message}
	s.report.Failure = &f
	failures.WithLabelValues(string(roleSource), reason).Inc()
	countRefusal(cause)
	s.event(m, evFailed, reason, message)
	return s.publish(ctx)
}

// noSpaceRemedy is what a person can do about a failure for lack of space.
const noSpaceRemedy = "the volume, the node's disk or a quota is full; the pod goes on, its images are removed; " +
	"enlarge the claim (or free space on the node) or let other migrations end first, then try again: "

// isNoSpace says whether an error comes from a full disk or a used up quota,
// wherever it was met.
func isNoSpace(err error) bool {
	return errors.Is(err, runtime.ErrNoSpace) || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
}

func (s *sourceSession) rounds() int32 {
	if s.report.Round == nil {
		return 0
	}
	return *s.report.Round
}

func duration(d time.Duration) metav1.Duration { return metav1.Duration{Duration: d} }
