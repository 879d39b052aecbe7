// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"fmt"
	"time"

	"godwit.dev/godwit/api/v1alpha1"
)

// outlook is what can be expected at one sample.
type outlook struct {
	dirty int64
	// rate is the dirty memory's growth just now, in bytes per second: the faster of
	// the last two intervals, so that a hiccup is not taken for a pause. known if
	// there was one.
	rate  float64
	known bool
	// burst: it writes faster than it always does. lasted is for how long it has, and
	// so for how long it is expected to go on: a burst is caught somewhere in its middle.
	burst  bool
	lasted time.Duration
	// took is how long a round that begins now is expected to take, commit the time from
	// then to the commit.
	took, commit time.Duration
	// after is the dirty memory in bytes that a round that begins now is expected to
	// leave, least what it would if the pod stopped writing.
	after, least float64
	// freeze, round and pause as in Moment.
	freeze, round, pause time.Duration
}

// outlook at the sample i.
func (m MomentInput) outlook(i int) outlook {
	s := m.Samples[i]
	o := outlook{dirty: max(0, s.Bytes)}
	for j := i; j > 0 && j > i-2; j-- {
		a, b := m.Samples[j-1], m.Samples[j]
		took := b.At - a.At
		if took > freshFactor*m.interval() && a.At < m.ArmedAt {
			break // too long ago to say what it does just now
		}
		if took > 0 {
			o.known = true
			o.rate = max(o.rate, (float64(b.Bytes)-float64(a.Bytes))/took.Seconds())
		}
	}
	last := m.Rounds[len(m.Rounds)-1]
	b := m.bandwidth()
	o.took = max(0, last.Duration-transfer(last.Bytes, b)) + transfer(o.dirty, b)
	o.least = m.least(o.took)
	extra := max(0, float64(o.dirty)-o.least) // that the calmest round would not have left
	o.after = max(o.least, min(o.rate*o.took.Seconds(), extra))
	o.burst = o.rate > 0 && o.rate*o.took.Seconds() >= burstFactor*o.least
	if o.rate > 0 {
		o.lasted = seconds(extra / o.rate)
	}
	o.freeze = m.frozenAfter(0, float64(o.dirty), b)
	o.round = m.frozenAfter(float64(o.dirty), o.after, b)
	o.pause = m.frozenAfter(float64(o.dirty), o.least, b)
	o.commit = o.round - m.Costs.Predict(Load{ResidentBytes: m.ResidentBytes, Containers: m.Containers}).Restore.Duration
	return o
}

// late: the target's create cannot wait for a round, and the pod may be frozen without.
func (m MomentInput) late(o outlook) bool {
	within := o.freeze <= m.TargetDowntime || m.OnStall == v1alpha1.OnStallStopAndCopy
	return !m.fits(o.took+o.commit) && within && (m.Budget <= 0 || o.freeze <= m.Budget)
}

// fits: what is predicted to take so long until the commit may begin.
func (m MomentInput) fits(predicted time.Duration) bool {
	return m.Park <= 0 || FitsPark(predicted, m.Park-m.Parked)
}

// missed is the limit that the first downtime is within and the second is above; 0 for none.
func (m MomentInput) missed(now, then time.Duration) time.Duration {
	for _, limit := range []time.Duration{m.TargetDowntime, m.Budget} {
		if limit > 0 && now <= limit && then > limit {
			return limit
		}
	}
	return 0
}

// least is what a round that takes so long leaves dirty at best: the least that one
// has left so far, or more in relation if that one was shorter.
func (m MomentInput) least(took time.Duration) float64 {
	least := float64(maxBytes)
	for _, r := range m.Rounds {
		left := float64(max(0, r.DirtyBytes))
		if r.Duration > 0 && took > r.Duration {
			left *= took.Seconds() / r.Duration.Seconds()
		}
		least = min(least, left)
	}
	return least
}

// worth: the second downtime, which takes another round, is clearly shorter than the
// first. While nothing presses, that is a part of the whole downtime: there may be many
// such rounds. The last one before the freeze has to save a part of what memory makes
// of the downtime, and more than the time for which it stops the pod itself: most of
// a downtime may be the restore, which no round makes shorter.
func (m MomentInput) worth(from, to time.Duration) bool {
	if !m.Armed {
		return from-to >= max(from/worthShare, worthLeast)
	}
	memory := from - m.frozenAfter(0, 0, m.bandwidth())
	return from-to >= max(memory/worthShare, worthLeast, m.Rounds[len(m.Rounds)-1].Frozen)
}

// pauseExpected says why it may pay to wait: there is a burst, whose end promises
// more than what can be had at once, or nobody knows. "" when it does not.
func (m MomentInput) pauseExpected(o outlook) (reason string) {
	switch {
	case !o.known:
		return MomentUnknownRate
	case o.burst && o.lasted <= m.Patience && m.worth(min(o.freeze, o.round), o.pause):
		return MomentBurst
	}
	return ""
}

// spent says why it is not waited any longer; "" when it is.
func (m MomentInput) spent(o outlook) string {
	first := m.outlook(m.firstArmed())
	next := m.next()
	switch {
	case next-m.ArmedAt > m.Patience:
		return fmt.Sprintf("waiting for longer than %s is not allowed", round(m.Patience))
	case o.freeze-first.freeze > max(0, first.freeze-first.pause):
		return "waiting has cost as much as it could gain"
	}
	then := m.frozenAfter(0, float64(o.dirty)+o.rate*(next-m.Now).Seconds(), m.bandwidth())
	if limit := m.missed(o.freeze, then); limit > 0 {
		return fmt.Sprintf("waiting would take the downtime above %s", round(limit))
	}
	return ""
}

// next is when to count again.
func (m MomentInput) next() time.Duration {
	return max(m.Now, m.Samples[len(m.Samples)-1].At+m.interval())
}

// interval is Interval, so that time goes by.
func (m MomentInput) interval() time.Duration { return max(m.Interval, time.Millisecond) }

// firstArmed is the index of the sample that the source was armed with: the first
// since then, or the last one before.
func (m MomentInput) firstArmed() int {
	for i, s := range m.Samples {
		if s.At >= m.ArmedAt {
			return i
		}
	}
	return len(m.Samples) - 1
}

// waited is how long an armed source has waited. It has if it counted again.
func (m MomentInput) waited() time.Duration {
	if !m.Armed || m.firstArmed() == len(m.Samples)-1 {
		return 0
	}
	return max(0, m.Now-m.ArmedAt)
}

// maxBytes is more than any memory.
const maxBytes = int64(1) << 60

func bytesOf(f float64) int64 {
	return int64(min(max(f, 0), float64(maxBytes)))
}
