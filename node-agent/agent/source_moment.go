// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"time"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/migration"
)

// When a converged source is frozen: its dirty memory is counted again and again,
// and migration.ChooseMoment decides. All of it happens while the pod runs.

const (
	// dirtyInterval is how often the dirty memory is counted while a converged source
	// waits for the target.
	dirtyInterval = time.Second
	// momentInterval is how often it is counted once the final dumps stand ready: a pause is
	// seen after two intervals, and each costs a look at the API's cache, at
	// containerd and at the pod's page maps.
	momentInterval = 50 * time.Millisecond
	// readingWorth is for how long the source has written rounds, at the least, whose
	// reading is waited for before the gate is opened: the target takes about as long, and
	// each wait costs two writes to the API.
	readingWorth = 2 * time.Second
	// countShare of the time, one part in so many, may be spent on counting: a tenth of
	// one CPU at most, for a look at a large pod takes long.
	countShare = 10
)

// dirtyWatch is what was counted since the last round. A session that begins after a
// restart of the agent counts anew.
type dirtyWatch struct {
	samples []migration.DirtySample
	// counted is when the last count ended, took how long it took.
	counted time.Time
	took    time.Duration
	// standingAt is when the final dumps were first seen to stand ready, zero before.
	standingAt time.Time
	// armedAt is when the target had prepared its restore as well, and armedRounds the
	// rounds there were then.
	armedAt     time.Time
	armedRounds int32
	// roundTook is how long the last round took, with what followed until the next thing
	// could begin.
	roundTook time.Duration
	// parkedAt is when the target's create was first seen to be parked, zero before.
	parkedAt time.Time
	// readAt is when the target was first seen to have read readRounds, all there were.
	readAt     time.Time
	readRounds int32
	// published is when the last round, of lastBytes, was there to be read, and readRate
	// what the target read of a round in bytes per second; 0 when that is not known.
	published time.Time
	lastBytes int64
	readRate  int64
	// before is the dirty memory when the target had last read all rounds and another one
	// was begun, before its gate was opened.
	before int64
}

// interval between two counts, and no shorter than the share of time allows.
func (w *dirtyWatch) interval(shortest time.Duration) time.Duration {
	return max(shortest, countShare*w.took)
}

// due says in how long the next count may be made; without any, at once.
func (w *dirtyWatch) due(now time.Time, shortest time.Duration) time.Duration {
	return max(0, w.counted.Add(w.interval(shortest)).Sub(now))
}

// chooseMoment counts the dirty memory of a source that has converged, when that is
// due, and decides on it. Without a verdict there is nothing to choose.
func (s *sourceSession) chooseMoment(ctx context.Context, m *v1alpha1.Migration, o migration.SourceObservation) (migration.MomentVerdict, error) {
	s.moment = migration.Moment{}
	armed := o.Phase == v1alpha1.PhaseSwitchingOver
	converged := o.Phase == v1alpha1.PhasePreCopying && (s.report.State == v1alpha1.SourceConverged ||
		s.report.State == v1alpha1.SourcePreCopying && o.Verdict == v1alpha1.VerdictSwitch)
	if o.Handover != "" || !armed && !converged || s.report.Failure != nil || s.report.FrozenAt != nil || o.Frozen || o.Killed {
		return "", nil
	}
	// Every moment counts once the dumps stand ready.
	w, interval := &s.watch, dirtyInterval
	if o.Ready {
		interval = momentInterval
		if w.armedAt.IsZero() {
			w.armedAt, w.armedRounds = s.Now(), s.rounds()
		}
	}
	w.seeTarget(m.Status.Target, s.rounds(), s.Now())
	refreshed := o.Ready && s.refreshed()
	// Once the target has read everything it is decided whether its gate may be opened.
	decides := o.Gated && !o.TargetReads && s.report.State == v1alpha1.SourcePreCopying
	if s.rounds() > 0 && !refreshed && (decides || w.due(s.Now(), interval) == 0) {
		_, err := s.countDirty(ctx)
		switch {
		case err == nil:
			s.keepCount()
		case !armed || ctx.Err() != nil:
			return "", err
		default:
			// The target waits: what cannot be counted is not waited for.
			s.log.Error(err, "the moment of the freeze is not chosen")
			w.samples = nil
		}
	}
	since := s.roundEnd()
	s.moment = migration.ChooseMoment(migration.MomentInput{
		PreCopy: s.preCopyInput(m), Samples: w.samples, ChainBroken: s.chainBroken, Refreshed: refreshed,
		Unread: refreshed && s.unread(m.Status.Target) > 0,
		Armed:  o.Ready, ArmedAt: w.armedAt.Sub(since), Now: s.Now().Sub(since),
		Interval: w.interval(momentInterval), Patience: s.patience(m),
		TargetReads: s.targetReads(m.Status.Target), Gated: o.Gated, Before: w.before,
		Left: migration.Deadline(m).Sub(s.Now()), Park: s.Timeouts.Park, Parked: w.parked(s.Now()),
	})
	if o.Ready {
		s.log.V(1).Info("moment", "verdict", s.moment.Verdict, "reason", s.moment.Reason, "dirty", s.dirty, "rate", s.moment.Rate,
			"freeze", s.moment.Freeze, "round", s.moment.Round, "pause", s.moment.Pause, "waited", s.moment.Waited)
	}
	return s.moment.Verdict, nil
}

// refreshed: a round was made since the source was armed.
func (s *sourceSession) refreshed() bool {
	return !s.watch.armedAt.IsZero() && s.rounds() > s.watch.armedRounds
}

// patience is how long an armed source may wait: for a small part of the time that
// the target's create stays parked, and of what the switchover may take.
func (s *sourceSession) patience(m *v1alpha1.Migration) time.Duration {
	limit, _ := migration.SwitchoverLimit(m.Spec.SwitchoverTimeout.Duration, s.report.ProbeBudget)
	return migration.MomentPatience(limit, s.Timeouts.Park)
}

// seeTarget notes how far the target has come.
func (w *dirtyWatch) seeTarget(t *v1alpha1.TargetStatus, rounds int32, now time.Time) {
	if t == nil {
		return
	}
	if w.parkedAt.IsZero() && t.State == v1alpha1.TargetParked {
		w.parkedAt = now
	}
	if t.VerifiedRounds >= rounds && w.readRounds < rounds {
		// Of a round alone, which nothing but reading kept the target from.
		if took := now.Sub(w.published).Seconds(); w.readRounds == rounds-1 && w.readRounds > 0 && !w.published.Before(w.readAt) && took > 0 {
			w.readRate = int64(float64(w.lastBytes) / took)
		}
		w.readAt, w.readRounds = now, rounds
	}
}

// parked is for how long the target's create is known to be parked.
func (w *dirtyWatch) parked(now time.Time) time.Duration {
	if w.parkedAt.IsZero() {
		return 0
	}
	return now.Sub(w.parkedAt)
}

// targetReads: the target has rounds to read, or had until just now. When nothing else
// is missing its create is parked soon, and the source is armed. With its gate closed
// nothing comes by itself.
func (s *sourceSession) targetReads(t *v1alpha1.TargetStatus) bool {
	if t == nil || t.NodeName == "" {
		return false
	}
	return t.VerifiedRounds < s.rounds() || !gated(t) && s.Now().Sub(s.watch.readAt) < s.Timeouts.Park/3
}

// downtime predicted for a freeze now.
func (s *sourceSession) downtime(m *v1alpha1.Migration) time.Duration {
	var since time.Duration
	if c := s.watch.counted; !c.IsZero() {
		since = s.Now().Sub(c)
	}
	return s.preCopyInput(m).Downtime(since, s.unread(m.Status.Target))
}

// unread bytes of rounds that the target is not known to have read.
func (s *sourceSession) unread(t *v1alpha1.TargetStatus) (bytes int64) {
	if t == nil {
		return 0
	}
	for k, r := range roundSamples(s.report.Containers) {
		if int32(k) >= t.VerifiedRounds {
			bytes += r.Bytes
		}
	}
	return bytes
}

// targetBehind: the target has rounds to read for a while yet. Little is dirtied until it has
// read what is written in less.
func (s *sourceSession) targetBehind(t *v1alpha1.TargetStatus) bool {
	if t == nil {
		return false
	}
	var took time.Duration
	for k, r := range roundSamples(s.report.Containers) {
		if int32(k) >= t.VerifiedRounds {
			took += r.Duration
		}
	}
	return took >= readingWorth
}

// gated: the target is on its node, and its gate was not opened.
func gated(t *v1alpha1.TargetStatus) bool {
	return t != nil && t.NodeName != "" && migration.GateClosed(t.State)
}

// hurried: the target's create has been parked for a good part of its time, which the
// final dump and its verification need as well; or, once a round was made since, another
// one like it and what follows until the commit take more than half of what is left. No
// other round begins; spec.preCopy.onStall says what becomes of a pod that has not converged.
func (s *sourceSession) hurried(p migration.PreCopy) bool {
	w := &s.watch
	if w.armedAt.IsZero() || s.rounds() == 0 {
		return false
	}
	spent := s.Now().Sub(w.armedAt)
	return spent > s.Timeouts.Park/3 || s.rounds() > w.armedRounds && !migration.FitsPark(w.roundTook+p.ToCommit(), s.Timeouts.Park-spent)
}

// roundEnd is when the last round ended, by the node's clock.
func (s *sourceSession) roundEnd() time.Time {
	var end time.Time
	for _, c := range s.report.Containers {
		if n := len(c.Rounds); n > 0 {
			if e := c.Rounds[n-1].StartTime.Add(c.Rounds[n-1].Duration.Duration); e.After(end) {
				end = e
			}
		}
	}
	return end
}

// countDirty counts the memory the next dump would have to write.
func (s *sourceSession) countDirty(ctx context.Context) (perContainer []int64, err error) {
	begun := s.Now()
	perContainer = make([]int64, len(s.containers))
	var sum int64
	for i, c := range s.containers {
		n, err := s.Node.Dirty.DirtyBytes(ctx, c)
		if err != nil {
			return nil, fmt.Errorf("count dirty memory of %s: %w", c.Name, err)
		}
		perContainer[i] = n
		sum += n
	}
	s.dirty = sum
	s.watch.counted = s.Now()
	s.watch.took = s.watch.counted.Sub(begun)
	return perContainer, nil
}

// keepCount takes the last count into the samples. Before the source is armed only
// the last few say anything.
func (s *sourceSession) keepCount() {
	const few = 4
	w := &s.watch
	if w.armedAt.IsZero() && len(w.samples) >= few {
		w.samples = w.samples[1:]
	}
	w.samples = append(w.samples, migration.DirtySample{At: w.counted.Sub(s.roundEnd()), Bytes: s.dirty})
}

// tellMoment says in an event, and later in the status, what an armed source has
// waited for and why another round was made, or could not be.
func (s *sourceSession) tellMoment(m *v1alpha1.Migration) {
	told := s.moment.Waited > 0 || s.moment.Verdict == migration.MomentRound || s.moment.Reason == migration.MomentNoTime
	if s.watch.armedAt.IsZero() || !told {
		return
	}
	s.chosen = s.moment.Message
	s.event(m, evMoment, s.chosen)
	s.log.Info("chose the moment", "verdict", s.moment.Verdict, "reason", s.moment.Reason, "waited", s.moment.Waited, "message", s.chosen)
}
