// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"strings"
	"testing"
	"time"

	"godwit.dev/godwit/api/v1alpha1"
)

// atRest is an armed pod of 400 MiB that has hardly written anything, on a volume of
// 100 MiB/s: a freeze takes 300 ms and 10 ms for each MiB.
func atRest(samples ...DirtySample) MomentInput {
	m := MomentInput{PreCopy: preCopy(2*time.Second,
		RoundSample{Bytes: 400 * mib, Duration: 4 * time.Second, DirtyBytes: 4 * mib},
		RoundSample{Bytes: 4 * mib, Duration: 100 * time.Millisecond, Frozen: 50 * time.Millisecond, DirtyBytes: mib}),
		Samples: samples, Armed: true, Interval: 50 * time.Millisecond, Patience: 2 * time.Second}
	m.Costs = costs(300*time.Millisecond, 0)
	m.OnStall = v1alpha1.OnStallStopAndCopy
	if n := len(samples); n > 0 {
		m.Now = samples[n-1].At
		m.ArmedAt = m.Now
	}
	return m
}

// steady is one that writes 10 MiB/s all the time.
func steady(samples ...DirtySample) MomentInput {
	m := atRest(samples...)
	m.Rounds = []RoundSample{
		{Bytes: 400 * mib, Duration: 4 * time.Second, DirtyBytes: 40 * mib},
		{Bytes: 40 * mib, Duration: 500 * time.Millisecond, Frozen: 50 * time.Millisecond, DirtyBytes: 5 * mib},
	}
	return m
}

// dirty is a sample of so many MiB, so many milliseconds after the last round.
func dirty(ms, mibs int64) DirtySample {
	return DirtySample{time.Duration(ms) * time.Millisecond, mibs * mib}
}

func TestChooseMoment(t *testing.T) {
	with := func(m MomentInput, change ...func(*MomentInput)) MomentInput {
		for _, c := range change {
			c(&m)
		}
		return m
	}
	armedAt := func(ms int64) func(*MomentInput) {
		return func(m *MomentInput) { m.ArmedAt = time.Duration(ms) * time.Millisecond }
	}
	// It has written 200 MiB/s for 400 ms, and was quiet for five seconds before. It is
	// counted again since it was armed at 5.25 s.
	burst := []DirtySample{dirty(0, 1), dirty(4900, 1), dirty(5250, 71), dirty(5300, 81)}
	armed := armedAt(5250)
	later := func(more ...DirtySample) MomentInput { return with(atRest(append(burst[:4:4], more...)...), armed) }

	half := func(m *MomentInput) {
		m.Rounds[1] = RoundSample{Bytes: 150 * mib, Duration: 1500 * time.Millisecond, DirtyBytes: 60 * mib}
	}
	unread := func(m *MomentInput) { m.Refreshed, m.Unread, m.Now = true, true, 0 }
	gatedFor := func(left time.Duration) func(*MomentInput) {
		return func(m *MomentInput) { m.Armed, m.Gated, m.Left = false, true, left }
	}
	for name, tc := range map[string]struct {
		m       MomentInput
		verdict MomentVerdict
		reason  string
		says    string
	}{
		"idle":                          {atRest(dirty(0, 0), dirty(5000, 0)), MomentFreeze, MomentLittleToGain, "0 dirty"},
		"hardly writes":                 {atRest(dirty(0, 1), dirty(5000, 3)), MomentFreeze, MomentLittleToGain, "3Mi dirty: another round"},
		"wrote, and nobody looked":      {atRest(dirty(0, 1), dirty(5000, 80)), MomentWait, MomentUnknownRate, "counting again"},
		"wrote long ago":                {atRest(dirty(0, 1), dirty(5000, 80), dirty(5050, 80)), MomentRound, MomentRoundPays, "another round takes 80Mi out of the freeze"},
		"steady":                        {steady(dirty(0, 5), dirty(300, 8)), MomentFreeze, MomentLittleToGain, ""},
		"steady, since a while":         {steady(dirty(0, 5), dirty(2000, 25), dirty(2100, 26)), MomentRound, MomentRoundPays, ""},
		"steady, a round just now":      {with(steady(dirty(0, 5)), func(m *MomentInput) { m.Refreshed = true }), MomentFreeze, MomentRefreshed, ""},
		"the target reads that round":   {with(steady(), unread), MomentWait, MomentTargetReads, "reads it before"},
		"even when it was one too many": {with(steady(), unread, func(m *MomentInput) { m.MaxRounds = 1 }), MomentWait, MomentTargetReads, ""},
		"it reads for too long":         {with(steady(), unread, func(m *MomentInput) { m.Now = m.Patience }), MomentFreeze, MomentRefreshed, ""},
		"its create cannot wait":        {with(steady(), unread, func(m *MomentInput) { m.Park, m.Parked = 10*time.Second, 10*time.Second }), MomentFreeze, MomentRefreshed, ""},
		"reading takes it above target": {with(steady(), unread, half, func(m *MomentInput) { m.TargetDowntime = time.Second }), MomentFreeze, MomentRefreshed, ""},
		"or above what probes bear":     {with(steady(), unread, half, func(m *MomentInput) { m.Budget = time.Second }), MomentFreeze, MomentRefreshed, ""},
		"or above neither":              {with(steady(), unread, half), MomentWait, MomentTargetReads, ""},
		"it has too much to read":       {with(steady(), unread, func(m *MomentInput) { m.Rounds[1].Bytes, m.Rounds[1].Duration = 400*mib, 5*time.Second }), MomentFreeze, MomentRefreshed, ""},
		"it reads no faster than that":  {with(steady(), unread, func(m *MomentInput) { m.TargetBandwidth = mib }), MomentFreeze, MomentRefreshed, ""},
		"a full dump, and nothing read": {with(steady(), unread, func(m *MomentInput) { m.Rounds = nil }), MomentFreeze, MomentNoRounds, ""},
		"steady in the same memory":     {with(steady(dirty(0, 100), dirty(1000, 105), dirty(1050, 105)), func(m *MomentInput) { m.Rounds[0].DirtyBytes, m.Rounds[1].DirtyBytes = 100*mib, 100*mib }), MomentFreeze, MomentLittleToGain, ""},
		"steady, noisy counter":         {steady(dirty(0, 5), dirty(2000, 25), dirty(2050, 25), dirty(2100, 26)), MomentRound, MomentRoundPays, ""},
		"steady, faster than in rounds": {with(steady(dirty(0, 5), dirty(2300, 465), dirty(2350, 475)), func(m *MomentInput) { m.Rounds[0].DirtyBytes, m.Rounds[1].DirtyBytes = 4*mib, 4*mib }), MomentFreeze, MomentSteadyWriter, "writes 200Mi/s, and another round"},
		"in a burst":                    {with(atRest(burst...), armed), MomentWait, MomentBurst, "writes 200Mi/s just now"},
		"burst goes on":                 {later(dirty(5350, 91), dirty(5400, 101)), MomentWait, MomentBurst, ""},
		"a hiccup is no pause":          {later(dirty(5350, 91), dirty(5400, 91)), MomentWait, MomentBurst, ""},
		"burst is over":                 {later(dirty(5350, 91), dirty(5400, 91), dirty(5450, 91)), MomentRound, MomentRoundPays, "waited 200ms for a pause in the pod's writing: another round takes 91Mi"},
		"counter goes back":             {later(dirty(5350, 60), dirty(5400, 60), dirty(5450, 60)), MomentRound, MomentRoundPays, ""},
		"burst begins while waiting":    {later(dirty(5350, 81), dirty(5400, 81), dirty(5450, 92)), MomentWait, MomentBurst, ""},
		"has just begun to write":       {atRest(dirty(0, 1), dirty(4000, 1), dirty(4990, 1), dirty(5000, 3)), MomentFreeze, MomentLittleToGain, ""},
		"waiting costs too much":        {with(later(dirty(5450, 111), dirty(5650, 151)), func(m *MomentInput) { m.TargetDowntime = 0 }), MomentFreeze, MomentNoPause, "waiting has cost as much"},
		"waited long enough":            {with(later(dirty(5400, 91), dirty(5450, 101)), armedAt(4990), func(m *MomentInput) { m.Patience = 500 * time.Millisecond }), MomentFreeze, MomentNoPause, "waited 460ms for a pause in the pod's writing: waiting for longer than 500ms is not allowed; "},
		"counting is too expensive":     {with(atRest(burst...), func(m *MomentInput) { m.Interval = 3 * time.Second }), MomentFreeze, MomentNoPause, "longer than 2s"},
		"would miss the target":         {with(atRest(burst...), func(m *MomentInput) { m.TargetDowntime = 1150 * time.Millisecond }), MomentFreeze, MomentNoPause, "above 1.15s"},
		"would miss the probes":         {with(atRest(burst...), func(m *MomentInput) { m.Budget = 1150 * time.Millisecond }), MomentFreeze, MomentNoPause, "above 1.15s"},
		"misses the target anyway":      {with(atRest(burst...), func(m *MomentInput) { m.TargetDowntime = time.Second }), MomentWait, MomentBurst, ""},
		"an agent that has restarted":   {atRest(dirty(5300, 81)), MomentWait, MomentUnknownRate, "counting again"},
		"and has nothing to gain":       {atRest(dirty(5300, 2)), MomentFreeze, MomentLittleToGain, ""},
		"and sees a burst":              {with(atRest(dirty(5300, 81), dirty(5350, 91)), armedAt(5300)), MomentWait, MomentBurst, ""},
		"and sees none":                 {with(atRest(dirty(5300, 81), dirty(5350, 81)), armedAt(5300)), MomentRound, MomentRoundPays, "waited 50ms"},
		"not armed, in a burst":         {with(atRest(burst...), func(m *MomentInput) { m.Armed = false }), MomentRound, MomentRoundPays, "another round copies 81Mi"},
		"not armed, steady":             {with(steady(dirty(0, 5), dirty(400, 9)), func(m *MomentInput) { m.Armed = false }), MomentFreeze, MomentSteadyWriter, ""},
		"not armed, little dirty":       {with(steady(dirty(0, 5)), func(m *MomentInput) { m.Armed = false }), MomentFreeze, MomentLittleToGain, ""},
		"time for a round":              {with(atRest(dirty(0, 1), dirty(5000, 80), dirty(5050, 80)), func(m *MomentInput) { m.Park, m.Parked = 10*time.Second, 2*time.Second }), MomentRound, MomentRoundPays, ""},
		"no time for a round":           {with(atRest(dirty(0, 1), dirty(5000, 80), dirty(5050, 80)), func(m *MomentInput) { m.Park, m.Parked = 10*time.Second, 8*time.Second }), MomentFreeze, MomentNoTime, "parked since 8s, cannot wait for another round, which would take about 860ms"},
		"no time, and above the target": {with(atRest(dirty(0, 1), dirty(5000, 80), dirty(5050, 80)), func(m *MomentInput) {
			m.Park, m.TargetDowntime, m.OnStall = time.Second, time.Second, v1alpha1.OnStallAbort
		}), MomentRound, MomentRoundPays, ""},
		"no time, and above the budget": {with(atRest(dirty(0, 1), dirty(5000, 80), dirty(5050, 80)), func(m *MomentInput) { m.Park, m.Budget = time.Second, time.Second }), MomentRound, MomentRoundPays, ""},
		"no time to wait for a pause":   {with(atRest(burst...), armed, func(m *MomentInput) { m.Park = 2 * time.Second }), MomentFreeze, MomentNoTime, ""},
		"not armed, nobody waits":       {with(atRest(burst...), func(m *MomentInput) { m.Armed, m.Park = false, 2*time.Second }), MomentRound, MomentRoundPays, ""},
		"not armed, the target reads":   {with(atRest(burst...), func(m *MomentInput) { m.Armed, m.TargetReads = false, true }), MomentFreeze, MomentTargetReads, ""},
		"gated, the target reads":       {with(atRest(burst...), gatedFor(time.Hour), func(m *MomentInput) { m.TargetReads = true }), MomentFreeze, MomentTargetReads, ""},
		"gated, the target has read":    {with(atRest(burst...), gatedFor(time.Hour)), MomentRound, MomentRoundPays, "another round copies 81Mi"},
		"gated, little dirty":           {with(atRest(dirty(0, 1), dirty(5000, 3)), gatedFor(time.Hour)), MomentFreeze, MomentLittleToGain, ""},
		"gated, less than before":       {with(atRest(burst...), gatedFor(time.Hour), func(m *MomentInput) { m.Before = 163 * mib }), MomentRound, MomentRoundPays, ""},
		"gated, as much again":          {with(atRest(burst...), gatedFor(time.Hour), func(m *MomentInput) { m.Before = 161 * mib }), MomentFreeze, MomentSteadyWriter, "81Mi dirty: half as much"},
		"gated, no time":                {with(atRest(burst...), gatedFor(time.Second)), MomentFreeze, MomentNoTime, "deadline"},
		"gated, no time for the create": {with(atRest(burst...), gatedFor(time.Minute), func(m *MomentInput) { m.Park = time.Minute }), MomentFreeze, MomentNoTime, "deadline"},
		"armed, the target has read":    {with(atRest(dirty(0, 1), dirty(5000, 80), dirty(5050, 80)), func(m *MomentInput) { m.TargetReads = true }), MomentRound, MomentRoundPays, ""},
		"cannot be counted":             {atRest(), MomentFreeze, MomentUncounted, ""},
		"nothing was copied":            {with(atRest(burst...), func(m *MomentInput) { m.Rounds, m.MaxRounds = nil, 0 }), MomentFreeze, MomentNoRounds, ""},
		"no more rounds":                {with(atRest(burst...), func(m *MomentInput) { m.MaxRounds = 1 }), MomentFreeze, MomentOutOfRounds, ""},
		"broken chain":                  {with(atRest(burst...), func(m *MomentInput) { m.ChainBroken = true }), MomentRound, MomentChainBroken, ""},
		"broken chain, no more":         {with(atRest(burst...), func(m *MomentInput) { m.ChainBroken, m.MaxRounds = true, 1 }), MomentFreeze, MomentOutOfRounds, ""},
		"bandwidth is not known":        {with(atRest(burst...), func(m *MomentInput) { m.Rounds = []RoundSample{{}} }), MomentFreeze, MomentLittleToGain, ""},
	} {
		t.Run(name, func(t *testing.T) {
			c := ChooseMoment(tc.m)
			if c.Verdict != tc.verdict || c.Reason != tc.reason || c.Message == "" || !strings.Contains(c.Message, tc.says) {
				t.Errorf("ChooseMoment = %+v, want %s %s, saying %q", c, tc.verdict, tc.reason, tc.says)
			}
		})
	}
}

// What a round has written the target has to read as well, and it does so while the
// final dump is written. A round that only shifts the work there gains nothing.
func TestARoundIsReadByTheTarget(t *testing.T) {
	m := atRest(dirty(0, 1), dirty(5000, 80), dirty(5050, 80))
	m.Costs.Handover = Line{Slope: 8 * float64(m.bandwidth()) / gib, P: [3]float64{1, 0, 1}, Seen: 1} // 128 MiB/s
	c := ChooseMoment(m)
	// 300 ms and 800 to dump, 625 to read; after a round 340 to dump while 80 MiB are
	// read, of which 285 ms are left over, and 31 for the rest.
	if near := func(d, want time.Duration) bool { return max(d-want, want-d) < 5*time.Millisecond }; !near(c.Freeze, 1725*time.Millisecond) || !near(c.Pause, 656*time.Millisecond) {
		t.Errorf("predicted %s, after a round %s", c.Freeze, c.Pause)
	}
}

func TestMomentPatience(t *testing.T) {
	for _, tc := range []struct {
		limits []time.Duration
		want   time.Duration
	}{
		{nil, 2 * time.Second},
		{[]time.Duration{time.Minute, time.Minute}, 2 * time.Second},
		{[]time.Duration{7 * time.Second, time.Minute}, 700 * time.Millisecond},
		{[]time.Duration{0}, 0},
		{[]time.Duration{-time.Second}, 0},
	} {
		if got := MomentPatience(tc.limits...); got != tc.want {
			t.Errorf("MomentPatience(%v) = %s, want %s", tc.limits, got, tc.want)
		}
	}
}

// Whatever was counted, an armed source is frozen soon: after no more waiting than
// allowed, and one round.
func FuzzChooseMoment(f *testing.F) {
	f.Add([]byte{0, 0, 0}, int64(100<<20), int64(time.Second), int64(1<<20), int64(time.Second), int64(50*time.Millisecond), int64(2*time.Second), uint8(8), uint8(2))
	f.Add([]byte{200, 200, 200, 200, 0, 0, 0}, int64(400<<20), int64(4*time.Second), int64(1<<20), int64(time.Second), int64(50*time.Millisecond), int64(2*time.Second), uint8(8), uint8(1))
	f.Add([]byte{255, 1}, int64(-5), int64(-1), int64(1<<62), int64(-1), int64(-1), int64(1<<62), uint8(1), uint8(3))
	f.Fuzz(func(t *testing.T, growth []byte, copied, took, left, target, interval, patience int64, maxRounds, rounds uint8) {
		m := MomentInput{PreCopy: PreCopy{MaxRounds: int32(maxRounds % 17), TargetDowntime: time.Duration(target), Costs: costs(300*time.Millisecond, 500)},
			Armed: true, Interval: time.Duration(interval % int64(time.Minute)), Patience: time.Duration(patience % int64(time.Hour)),
			Park: time.Duration(took % int64(time.Hour)), Parked: time.Duration(patience % int64(time.Minute)), TargetReads: rounds%2 == 1}
		for range rounds % 20 {
			m.Rounds = append(m.Rounds, RoundSample{Bytes: copied, Duration: time.Duration(took), DirtyBytes: left})
		}
		m.Samples = []DirtySample{{Bytes: left}}
		next := func(after time.Duration) {
			m.Now += after
			s := DirtySample{At: m.Now, Bytes: m.Samples[len(m.Samples)-1].Bytes}
			if len(growth) > 0 {
				s.Bytes += int64(int8(growth[0])) << 20 // goes back as well
				growth = growth[1:]
			}
			m.Samples = append(m.Samples, s)
		}
		next(time.Second)
		m.ArmedAt = m.Now
		for steps := 0; ; steps++ {
			c := ChooseMoment(m)
			if c.Reason == "" || c.Message == "" {
				t.Fatalf("no reason: %+v", c)
			}
			allowed := !m.Refreshed && len(m.Rounds) > 0 && len(m.Rounds) <= int(m.MaxRounds)
			allowed = allowed || m.Refreshed && c.Verdict == MomentWait && c.Reason == MomentTargetReads
			if c.Verdict != MomentFreeze && !allowed {
				t.Fatalf("%+v, and no round may follow: %+v", c, m)
			}
			switch c.Verdict {
			case MomentFreeze:
				return
			case MomentWait:
				since := m.ArmedAt
				if m.Refreshed {
					since = 0 // its last round
				}
				if m.Now-since+c.Wait > m.Patience || c.Wait < 0 {
					t.Fatalf("waits too long: %+v for %+v", c, m)
				}
				if limit := m.TargetDowntime; limit > 0 && c.Freeze <= limit && c.Rate > 0 && m.frozenAfter(0, float64(m.Samples[len(m.Samples)-1].Bytes)+float64(c.Rate)*c.Wait.Seconds(), m.bandwidth()) > limit+time.Millisecond {
					t.Fatalf("waits until the target is missed: %+v for %+v", c, m)
				}
				// Who may wait longer does not wait less.
				patient := m
				patient.Patience += time.Second
				if ChooseMoment(patient).Verdict != MomentWait {
					t.Fatalf("%+v waits, and with more patience it does not", m)
				}
				next(c.Wait)
			case MomentRound:
				m.Rounds = append(m.Rounds, RoundSample{Bytes: copied, Duration: time.Duration(took), DirtyBytes: left})
				m.Samples, m.Refreshed, m.Unread, m.Now, m.ArmedAt = []DirtySample{{Bytes: left}}, true, true, 0, -m.Now
			default:
				t.Fatalf("unknown verdict: %+v", c)
			}
			if steps > 4000 { // of a millisecond at least, with the patience of this test
				if m.Patience < 3*time.Second {
					t.Fatalf("does not end: %+v", m)
				}
				return
			}
		}
	})
}
