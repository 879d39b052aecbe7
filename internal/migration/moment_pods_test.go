// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"math/rand/v2"
	"testing"
	"time"

	"godwit.dev/godwit/api/v1alpha1"
)

// writer is a pod that writes at a rate, in MiB/s, for a part of every period, and
// at another for the rest of it; each time to memory that it did not write before,
// up to all that it has.
type writer struct {
	period     time.Duration
	duty       float64
	fast, slow float64
	memory     int64
	// noise of the rate, as a part of it.
	noise  float64
	random *rand.Rand

	now     time.Duration
	written float64 // bytes since the last round
}

// pass lets time go by.
func (w *writer) pass(d time.Duration) {
	const step = time.Millisecond
	for end := w.now + d; w.now < end; w.now += step {
		rate := w.slow
		if w.period > 0 && float64(w.now%w.period) < w.duty*float64(w.period) {
			rate = w.fast
		}
		rate *= 1 + w.noise*(2*w.random.Float64()-1)
		w.written = min(float64(w.memory), w.written+rate*float64(mib)*step.Seconds())
	}
}

// switchover of a writer: a volume of 200 MiB/s, a node where a
// freeze takes 300 ms by itself.
type switchover struct {
	*writer
	MomentInput
	last time.Duration // end of the last round
}

const (
	volumeSpeed  = 200 * mib
	roundCosts   = 60 * time.Millisecond
	countAlways  = time.Second // before it is armed
	countArmed   = 50 * time.Millisecond
	countLooking = time.Millisecond // how long counting takes
)

func newSwitchover(w *writer) *switchover {
	s := &switchover{writer: w, MomentInput: MomentInput{PreCopy: preCopy(2 * time.Second), Interval: countArmed, Patience: 2 * time.Second}}
	s.OnStall = v1alpha1.OnStallStopAndCopy
	s.Costs, s.ResidentBytes = costs(300*time.Millisecond, 0), w.memory
	s.pass(time.Duration(w.random.Int64N(int64(10 * time.Second))))
	s.written = float64(w.memory)
	s.round()
	for s.again() {
		s.round()
	}
	return s
}

// again: it has not converged, and another round may help.
func (s *switchover) again() bool {
	s.DirtyBytes = int64(s.written)
	return Converge(s.PreCopy).Verdict == v1alpha1.VerdictContinue
}

// round copies what is dirty, while the pod goes on.
func (s *switchover) round() {
	bytes := int64(s.written)
	s.written = 0
	took := roundCosts + transfer(bytes, volumeSpeed)
	s.pass(took)
	s.last = s.now
	s.Rounds = append(s.Rounds, RoundSample{Bytes: bytes, Duration: took, Frozen: roundCosts / 3, DirtyBytes: int64(s.written)})
	s.Samples, s.Refreshed = nil, s.Armed
	s.count()
}

func (s *switchover) count() {
	s.pass(countLooking)
	s.Now = s.now - s.last
	s.Samples = append(s.Samples, DirtySample{At: s.Now, Bytes: int64(s.written)})
}

// rule is what decides, ChooseMoment or another to compare it with.
type rule func(MomentInput) Moment

// fixed is a rule without any idea of time: a round when what is dirty has doubled
// since the last one, and 16 MiB more.
func fixed(m MomentInput) Moment {
	left, now := m.Rounds[len(m.Rounds)-1].DirtyBytes, m.Samples[len(m.Samples)-1].Bytes
	if now > 2*left+16*mib && int32(len(m.Rounds)) <= m.MaxRounds {
		return Moment{Verdict: MomentRound}
	}
	return Moment{Verdict: MomentFreeze}
}

// run waits for the target for so long, and switches over. It returns the downtime
// predicted at the moment that was chosen, for how long it was waited for it, and the
// rounds since it was armed.
func (s *switchover) run(t *testing.T, choose rule, parked time.Duration) (downtime, waited time.Duration, rounds int) {
	t.Helper()
	for end := s.now + parked; s.now < end; {
		s.pass(min(countAlways, end-s.now))
		s.count()
		if (s.again() || choose(s.MomentInput).Verdict == MomentRound) && int32(len(s.Rounds)) < s.MaxRounds {
			s.round()
		}
	}
	s.Armed, s.ArmedAt = true, s.Now
	before := len(s.Rounds)
	for range 1000 {
		switch c := choose(s.MomentInput); c.Verdict {
		case MomentWait:
			waited += c.Wait
			s.pass(c.Wait)
			s.count()
		case MomentRound:
			s.round()
		default:
			written := int64(0)
			if s.Refreshed {
				written = s.Rounds[len(s.Rounds)-1].Bytes
			}
			return s.frozenAfter(float64(written), s.written, s.bandwidth()), waited, len(s.Rounds) - before
		}
	}
	t.Fatal("it does not end")
	return 0, 0, 0
}

// outcome of many switchovers of a kind of pod, each at another moment of its life.
type outcome struct {
	downtime, waited time.Duration // means
	longest          time.Duration
	rounds           float64
}

func outcomeOf(t *testing.T, w writer, choose rule) (o outcome) {
	const runs = 150
	for seed := range uint64(runs) {
		w := w
		w.memory = max(w.memory, 1000*mib)
		w.random = rand.New(rand.NewPCG(seed, 7))
		s := newSwitchover(&w)
		downtime, waited, rounds := s.run(t, choose, time.Duration(w.random.Int64N(int64(8*time.Second))))
		o.downtime, o.waited, o.longest = o.downtime+downtime/runs, o.waited+waited/runs, max(o.longest, waited)
		o.rounds += float64(len(s.Rounds)) / runs
		if rounds > 1 && choose(s.MomentInput).Reason != "" { // the fixed rule gives none
			t.Errorf("%d rounds after it was armed", rounds)
		}
	}
	return o
}

func TestMomentsOfPods(t *testing.T) {
	const look = 50 * time.Millisecond
	for name, tc := range map[string]struct {
		writer
		// gain: the mean downtime is at most this part of that of a freeze at once.
		gain float64
		// waited at most, and on average.
		longest, waited time.Duration
	}{
		"idle":                      {writer{}, 1, 0, 0},
		"steady":                    {writer{slow: 20}, 0.5, look, look},
		"steady and noisy":          {writer{slow: 20, noise: 0.9}, 0.5, look, look},
		"steady and fast":           {writer{slow: 150}, 0.9, look, look},
		"bursts every 2 s":          {writer{period: 2 * time.Second, duty: 0.2, fast: 300, slow: 1}, 0.65, time.Second, look},
		"long bursts":               {writer{period: 6 * time.Second, duty: 0.3, fast: 300, slow: 1}, 0.7, 2 * time.Second, 2 * look},
		"long and slow bursts":      {writer{period: 6 * time.Second, duty: 0.3, fast: 100, slow: 1}, 0.8, 2 * time.Second, 2 * look},
		"short bursts":              {writer{period: 500 * time.Millisecond, duty: 0.2, fast: 300, slow: 1}, 0.75, time.Second, look},
		"noisy bursts":              {writer{period: 3 * time.Second, duty: 0.3, fast: 200, slow: 10, noise: 0.5}, 0.65, 2 * time.Second, look},
		"bursts most of the time":   {writer{period: 3 * time.Second, duty: 0.8, fast: 200, slow: 1}, 0.95, time.Second, look},
		"begins and does not end":   {writer{period: 20 * time.Second, duty: 0.5, fast: 300, slow: 1}, 1.1, 2 * time.Second, 3 * look}, // what a mistake costs
		"all memory in every burst": {writer{period: 4 * time.Second, duty: 0.3, fast: 1000, slow: 1, memory: 300 * mib}, 1, time.Second, look},
	} {
		t.Run(name, func(t *testing.T) {
			atOnce := outcomeOf(t, tc.writer, func(MomentInput) Moment { return Moment{} })
			simple, chosen := outcomeOf(t, tc.writer, fixed), outcomeOf(t, tc.writer, ChooseMoment)
			t.Logf("downtime at once %s, by a fixed rule %s with %.1f rounds, chosen %s with %.1f rounds, after %s on average and %s at most",
				round(atOnce.downtime), round(simple.downtime), simple.rounds, round(chosen.downtime), chosen.rounds, round(chosen.waited), round(chosen.longest))
			if float64(chosen.downtime) > tc.gain*float64(atOnce.downtime) {
				t.Errorf("more than %.2f", tc.gain)
			}
			if float64(chosen.downtime) > 1.1*float64(simple.downtime) {
				t.Errorf("a rule without any idea of time does better")
			}
			if chosen.longest > tc.longest || chosen.waited > tc.waited {
				t.Errorf("waited too long")
			}
		})
	}
}
