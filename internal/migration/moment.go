// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"fmt"
	"time"
)

// MomentVerdict is what to do about a source that has converged.
type MomentVerdict string

const (
	// MomentFreeze: there is no better moment than this one.
	MomentFreeze MomentVerdict = "Freeze"
	// MomentWait: the pod writes in a burst; count again in Moment.Wait.
	MomentWait MomentVerdict = "Wait"
	// MomentRound: a round now makes the freeze clearly shorter.
	MomentRound MomentVerdict = "Round"
)

// DirtySample is the dirty memory at one moment.
type DirtySample struct {
	// At is the time since the last round ended.
	At time.Duration
	// Bytes that were written since the last round read them, each page counted
	// once, so that it only grows until the next round.
	Bytes int64
}

// MomentInput is everything ChooseMoment looks at.
type MomentInput struct {
	// PreCopy so far; its DirtyBytes are not looked at.
	PreCopy
	// Samples since the last round, oldest first; none when they cannot be had.
	Samples []DirtySample
	// ChainBroken: the next dump has to be a full one.
	ChainBroken bool
	// Now, and ArmedAt if Armed, on the scale of the samples' times.
	Now, ArmedAt time.Duration
	// Armed: the target is ready, and every moment until the freeze counts.
	Armed bool
	// Refreshed: a round was made since the source was armed. Unread: the target has not
	// read all rounds.
	Refreshed, Unread bool
	// TargetReads: the target has rounds to read, or was seen to have read them all only
	// just now.
	TargetReads bool
	// Gated: the target's gate is opened, and its create parked, only when the source has
	// converged.
	Gated bool
	// Before is the dirty memory when the target had last read all rounds, and another one
	// was made; 0 if none was.
	Before int64
	// Left is the time until the migration's deadline.
	Left time.Duration
	// Parked is for how long the target's create has been parked, Park for how long it
	// can be; 0 when nothing bounds it. One that was parked in vain is made again, and
	// counts as a restart of the container.
	Parked, Park time.Duration
	// Interval at which counting again is not too expensive.
	Interval time.Duration
	// Patience is how long an armed source may wait in all; see MomentPatience.
	Patience time.Duration
}

// Reasons of the choice of a moment.
const (
	MomentNoRounds     = "NoRounds"
	MomentOutOfRounds  = "OutOfRounds"
	MomentRefreshed    = "Refreshed"
	MomentUncounted    = "Uncounted"
	MomentChainBroken  = "ChainBroken"
	MomentLittleToGain = "LittleToGain"
	MomentRoundPays    = "RoundPays"
	MomentSteadyWriter = "SteadyWriter"
	MomentBurst        = "Burst"
	MomentUnknownRate  = "UnknownRate"
	MomentNoPause      = "NoPause"
	MomentNoTime       = "NoTime"
	MomentTargetReads  = "TargetReads"
)

// Moment is the choice.
type Moment struct {
	Verdict MomentVerdict
	// Reason is one of the Moment constants, Message the same for people.
	Reason, Message string
	// Wait until the next count, with MomentWait.
	Wait time.Duration
	// Waited since the source was armed; 0 when it was not waited for anything.
	Waited time.Duration
	// Rate at which the dirty memory grows now, in bytes per second.
	Rate int64
	// Freeze, Round and Pause are the downtimes predicted for a freeze now, for one
	// after a round that begins now, and for one after a round in a pause of the
	// writing.
	Freeze, Round, Pause time.Duration
}

const (
	// longestPatience holds the target's parked create up and a person who waits
	// for the switchover. Much of what programs do in bursts they do every second
	// (ticks, flushes, logs) or for a fraction of one (garbage collections), so
	// two seconds show two pauses of it; what writes for longer than that has
	// written so much that waiting does not pay.
	longestPatience = 2 * time.Second
	// patienceShare of every limit of the switchover can be spent on waiting.
	patienceShare = 10
	// worthShare and worthLeast: a shorter downtime counts when it is shorter by this
	// part and by this much. It costs a round, which stops the pod and makes the chain to
	// restore longer, and predictions are off by about as much. See worth.
	worthShare = 10
	worthLeast = 20 * time.Millisecond
	// burstFactor: who writes so many times faster than in the calmest round writes in
	// a burst. A steady writer's counts differ by less.
	burstFactor = 2
	// freshFactor: an interval between counts tells the rate just now if it is no
	// longer than so many times what it would be in waiting.
	freshFactor = 4
	// halves: while nothing presses, a round that would leave more than this part
	// dirty again is not worth disturbing the pod, nor one that is more than this part of
	// the one before it.
	halves = 2
	// parkShare of the time for which the target's create still waits is for a round and
	// what follows until the commit, as they are predicted: both have been seen to take
	// twice as long.
	parkShare = 2
)

// FitsPark says whether what is predicted to take so long until the commit may begin
// while the target's create stays parked for so long yet.
func FitsPark(predicted, left time.Duration) bool { return predicted <= left/parkShare }

// MomentPatience is how long an armed source may wait for a better moment: no
// considerable part of any of the limits, which are positive.
func MomentPatience(limits ...time.Duration) time.Duration {
	patience := longestPatience
	for _, l := range limits {
		patience = min(patience, max(0, l/patienceShare))
	}
	return patience
}

// ChooseMoment decides when a converged source is frozen. The dirty memory only
// grows until a round clears it, so waiting alone never helps: what helps is a
// round that the pod does not write during, and to freeze right after it. Rules,
// first match wins: nothing to decide; the last round is read; a broken chain is begun
// again; little dirty already; in a burst, wait for its end, if that is worth it; a round,
// if it is worth it; freeze.
//
// An armed source gets one round, unless the target's create cannot wait for it and the
// freeze may do without, and a burst is waited for no longer than
// Patience, not when what is within the target downtime would not be afterwards,
// and only until it has cost as much as its end could gain: a burst is given about
// as long again as it has taken so far. One that is not armed is not frozen: then
// only a round that would leave half of the memory clean is asked for, and none while
// the target reads: it is armed when that has read everything, this round too. While the
// target's gate is closed, rounds and reading take turns only as long as each round has
// less than half to copy of what the one before had.
func ChooseMoment(m MomentInput) Moment {
	if c, ok := m.settled(); ok {
		return c
	}
	o := m.outlook(len(m.Samples) - 1)
	c := Moment{Rate: bytesOf(o.rate), Freeze: o.freeze, Round: o.round, Pause: o.pause, Waited: m.waited()}
	switch {
	case !m.worth(o.freeze, o.pause):
		return c.is(MomentFreeze, MomentLittleToGain, c.after("%s dirty: another round would not make the freeze clearly shorter", bytesString(o.dirty)))
	case m.Armed:
		return m.chooseArmed(o, c)
	case m.TargetReads:
		return c.is(MomentFreeze, MomentTargetReads, "the target would have to read another round as well")
	case m.Gated && 2*o.took+m.Park > m.Left:
		return c.is(MomentFreeze, MomentNoTime, "the migration's deadline leaves no time for another round and its reading")
	case m.Gated && m.Before > 0 && o.dirty > m.Before/halves:
		return c.is(MomentFreeze, MomentSteadyWriter, fmt.Sprintf("%s dirty: half as much as before, or more, was written while the last round was made and read", bytesString(o.dirty)))
	case o.least <= float64(o.dirty)/halves:
		return c.is(MomentRound, MomentRoundPays, fmt.Sprintf("another round copies %s while the pod runs", bytesString(o.dirty)))
	}
	return c.is(MomentFreeze, MomentSteadyWriter, "another round would leave as much dirty again")
}

// settled: there is nothing to weigh up.
func (m MomentInput) settled() (c Moment, ok bool) {
	switch {
	case len(m.Rounds) == 0:
		return c.is(MomentFreeze, MomentNoRounds, "nothing is copied before the freeze"), true
	case m.Refreshed && m.Unread && m.readFirst():
		c.Wait = m.Patience - m.Now
		return c.is(MomentWait, MomentTargetReads, "a round has just ended: the target reads it before the pod is frozen"), true
	case int32(len(m.Rounds)) > m.MaxRounds:
		return c.is(MomentFreeze, MomentOutOfRounds, "no more rounds are allowed"), true
	case m.ChainBroken:
		return c.is(MomentRound, MomentChainBroken, "the chain of images is broken: all memory is copied again before the freeze"), true
	case m.Refreshed:
		return c.is(MomentFreeze, MomentRefreshed, "a round has just ended"), true
	case len(m.Samples) == 0:
		return c.is(MomentFreeze, MomentUncounted, "the dirty memory cannot be counted"), true
	}
	return c, false
}

// readFirst: what the pod writes while the target reads the last round is less than half
// of what that would have to read in the freeze, beside the final dump, and does not take
// the downtime above what is allowed. It is waited for no longer than Patience, and not
// when it takes longer: then waiting only adds to it.
func (m MomentInput) readFirst() bool {
	b, last := m.bandwidth(), m.Rounds[len(m.Rounds)-1]
	if m.Now >= m.Patience || last.Duration <= 0 {
		return false
	}
	reads := m.TargetBandwidth
	if reads <= 0 {
		reads = b
	}
	took := transfer(last.Bytes, reads)
	left := float64(max(0, last.DirtyBytes))
	written := left * took.Seconds() / last.Duration.Seconds()
	p := m.PreCopy
	p.DirtyBytes = bytesOf(left + written)
	return took > 0 && took <= m.Patience && written <= float64(last.Bytes)/halves && m.fits(took+p.ToCommit()) &&
		m.missed(m.frozenAfter(0, left, b), m.frozenAfter(0, left+written, b)) == 0
}

// chooseArmed weighs freezing now, a round now, and waiting for a pause up.
func (m MomentInput) chooseArmed(o outlook, c Moment) Moment {
	if m.late(o) {
		return c.is(MomentFreeze, MomentNoTime, c.after("%s dirty: the target's create, parked since %s, cannot wait for another round, which would take about %s",
			bytesString(o.dirty), round(m.Parked), round(o.took)))
	}
	reason, spent := m.pauseExpected(o), ""
	if reason != "" {
		if spent = m.spent(o); spent == "" {
			c.Wait = m.next() - m.Now
			message := fmt.Sprintf("%s dirty: counting again, to see whether the pod writes just now", bytesString(o.dirty))
			if reason == MomentBurst {
				message = fmt.Sprintf("%s dirty, and the pod writes %s/s just now: waiting for a pause, since a freeze is predicted to take %s now, and %s after a round in a pause",
					bytesString(o.dirty), bytesString(c.Rate), round(o.freeze), round(o.pause))
			}
			return c.is(MomentWait, reason, message)
		}
		spent += "; "
	}
	if m.worth(o.freeze, o.round) {
		return c.is(MomentRound, MomentRoundPays, c.after("%sanother round takes %s out of the freeze", spent, bytesString(o.dirty)))
	}
	reason = MomentSteadyWriter
	if spent != "" {
		reason = MomentNoPause
	}
	return c.is(MomentFreeze, reason, c.after("%sthe pod writes %s/s, and another round would leave %s dirty again, of %s",
		spent, bytesString(c.Rate), bytesString(bytesOf(o.after)), bytesString(o.dirty)))
}

func (c Moment) is(v MomentVerdict, reason, message string) Moment {
	c.Verdict, c.Reason, c.Message = v, reason, message
	return c
}

// after is a message that says for how long it was waited.
func (c Moment) after(format string, args ...any) string {
	message := fmt.Sprintf(format, args...)
	if c.Waited > 0 {
		return fmt.Sprintf("waited %s for a pause in the pod's writing: %s", round(c.Waited), message)
	}
	return message
}
