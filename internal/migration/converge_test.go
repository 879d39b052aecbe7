// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"strings"
	"testing"
	"time"

	"godwit.dev/godwit/api/v1alpha1"
)

const mib = int64(1 << 20)

// sample is a round of so many MiB in a second, with so many dirty afterwards.
func sample(copied, dirty int64) RoundSample {
	return RoundSample{Bytes: copied * mib, Duration: time.Second, DirtyBytes: dirty * mib}
}

// costs are those of a node on which a switchover takes so long apart from memory,
// and puts so many MiB back in a second; none if 0.
func costs(fixed time.Duration, restore int64) Costs {
	line := func(offset, slope float64) Line {
		return Line{Offset: offset, Slope: slope, P: [3]float64{1, 0, 1}, Seen: 1}
	}
	c := Costs{FreezeAndDump: line(fixed.Seconds(), 1), Handover: line(0, 0), Restore: line(0, 0)}
	c.WholeDump, c.WholeHandover = c.FreezeAndDump, c.Handover
	if restore > 0 {
		c.Restore.Slope = gib / float64(restore*mib)
	}
	return c
}

func preCopy(target time.Duration, rounds ...RoundSample) PreCopy {
	p := PreCopy{Rounds: rounds, MaxRounds: 8, TargetDowntime: target, OnStall: v1alpha1.OnStallAbort, Costs: costs(0, 0)}
	if n := len(rounds); n > 0 {
		p.DirtyBytes = rounds[n-1].DirtyBytes
	}
	return p
}

func TestConverge(t *testing.T) {
	with := func(p PreCopy, change func(*PreCopy)) PreCopy {
		change(&p)
		return p
	}
	for name, tc := range map[string]struct {
		p       PreCopy
		verdict v1alpha1.ConvergenceVerdict
		reason  string
	}{
		"no pre-copy wanted":            {with(preCopy(time.Second), func(p *PreCopy) { p.MaxRounds = 0 }), v1alpha1.VerdictSwitch, ConvergeNoPreCopy},
		"nothing copied":                {preCopy(time.Second), v1alpha1.VerdictContinue, ConvergeFirstRound},
		"little dirty":                  {preCopy(time.Second, sample(100, 50)), v1alpha1.VerdictSwitch, ConvergeWithinTarget},
		"exactly the target":            {preCopy(time.Second, sample(100, 100)), v1alpha1.VerdictSwitch, ConvergeWithinTarget},
		"much dirty after one round":    {preCopy(time.Second, sample(100, 150)), v1alpha1.VerdictContinue, ConvergeShrinking},
		"shrinks":                       {preCopy(100*time.Millisecond, sample(400, 100), sample(100, 50)), v1alpha1.VerdictContinue, ConvergeShrinking},
		"no longer shrinks":             {preCopy(100*time.Millisecond, sample(400, 100), sample(100, 95)), v1alpha1.VerdictStalled, ConvergeNotShrinking},
		"dirtied as fast as copied":     {preCopy(100*time.Millisecond, sample(100, 300), sample(100, 150)), v1alpha1.VerdictStalled, ConvergeRateTooHigh},
		"out of rounds":                 {with(preCopy(time.Millisecond, sample(400, 100), sample(100, 10)), func(p *PreCopy) { p.MaxRounds = 2 }), v1alpha1.VerdictStalled, ConvergeMaxRounds},
		"out of rounds but good":        {with(preCopy(time.Second, sample(400, 100), sample(100, 10)), func(p *PreCopy) { p.MaxRounds = 2 }), v1alpha1.VerdictSwitch, ConvergeWithinTarget},
		"fixed cost too big":            {with(preCopy(time.Second, sample(400, 10)), func(p *PreCopy) { p.Costs = costs(2*time.Second, 0) }), v1alpha1.VerdictStalled, ConvergeFixedCostTooBig},
		"fixed cost too big, much too":  {with(preCopy(time.Second, sample(400, 200)), func(p *PreCopy) { p.Costs = costs(2*time.Second, 0) }), v1alpha1.VerdictContinue, ConvergeShrinking},
		"only the final dump takes it":  {with(preCopy(time.Second, sample(100, 10)), func(p *PreCopy) { p.FinalOnlyBytes = 200 * mib }), v1alpha1.VerdictContinue, ConvergeShrinking},
		"slow restore":                  {with(preCopy(time.Second, sample(100, 90)), func(p *PreCopy) { p.Costs, p.ResidentBytes = costs(0, 100), 90*mib }), v1alpha1.VerdictContinue, ConvergeShrinking},
		"dirty since the round":         {with(preCopy(time.Second, sample(100, 50)), func(p *PreCopy) { p.DirtyBytes = 300 * mib }), v1alpha1.VerdictContinue, ConvergeShrinking},
		"stall is slowed down":          {with(preCopy(100*time.Millisecond, sample(400, 100), sample(100, 95)), func(p *PreCopy) { p.OnStall = v1alpha1.OnStallThrottle }), v1alpha1.VerdictThrottle, ConvergeNotShrinking},
		"out of rounds is slowed down":  {with(preCopy(time.Millisecond, sample(400, 100), sample(100, 10)), func(p *PreCopy) { p.MaxRounds, p.OnStall = 2, v1alpha1.OnStallThrottle }), v1alpha1.VerdictThrottle, ConvergeMaxRounds},
		"slow enough, and no better":    {with(preCopy(100*time.Millisecond, sample(400, 100), sample(100, 95)), func(p *PreCopy) { p.OnStall, p.CPUPercent = v1alpha1.OnStallThrottle, 5 }), v1alpha1.VerdictStalled, ConvergeNotShrinking},
		"slower does not help the rest": {with(preCopy(time.Second, sample(400, 10)), func(p *PreCopy) { p.Costs, p.OnStall = costs(2*time.Second, 0), v1alpha1.OnStallThrottle }), v1alpha1.VerdictStalled, ConvergeFixedCostTooBig},
		"stall is accepted":             {with(preCopy(100*time.Millisecond, sample(400, 100), sample(100, 95)), func(p *PreCopy) { p.OnStall = v1alpha1.OnStallStopAndCopy }), v1alpha1.VerdictSwitch, ConvergeNotShrinking},
	} {
		t.Run(name, func(t *testing.T) {
			c := Converge(tc.p)
			if c.Verdict != tc.verdict || c.Reason != tc.reason || c.Message == "" {
				t.Errorf("Converge = %+v, want %s %s", c, tc.verdict, tc.reason)
			}
		})
	}
}

// A pod that does not converge is told what kept up with it, and what did not.
func TestStallNamesWhatWasMeasured(t *testing.T) {
	p := preCopy(100*time.Millisecond, sample(400, 100), sample(100, 95))
	const measured = "; 95Mi/s were dirtied and 362Mi/s copied in the last round"
	if c := Converge(p); !strings.HasSuffix(c.Message, measured) {
		t.Errorf("message: %s", c.Message)
	}
	p.TargetBandwidth = 12 * mib
	if c := Converge(p); !strings.HasSuffix(c.Message, measured+", of which the target read 12Mi/s") {
		t.Errorf("message: %s", c.Message)
	}
}

func TestPrediction(t *testing.T) {
	p := preCopy(time.Second, sample(100, 50))
	p.Costs, p.ResidentBytes, p.FinalOnlyBytes = costs(300*time.Millisecond, 200), 400*mib, 50*mib
	// 300 ms, 100 MiB to dump at 100 MiB/s, 400 to put back at 200 MiB/s.
	if c := Converge(p); c.Predicted.Round(time.Millisecond) != 3300*time.Millisecond || c.Bandwidth != 100*mib {
		t.Errorf("predicted %s at %d B/s", c.Predicted, c.Bandwidth)
	}
	// Before the first round, at what the node has seen.
	p.Rounds, p.MaxRounds = nil, 0
	if c := Converge(p); c.Predicted != 0 || c.Verdict != v1alpha1.VerdictSwitch {
		t.Errorf("predicted %s of nothing", c.Predicted)
	}
	p.Costs.Bandwidth = 50 * mib
	if c := Converge(p); c.Predicted.Round(time.Millisecond) != 4300*time.Millisecond || c.Verdict != v1alpha1.VerdictSwitch {
		t.Errorf("predicted %s for a single dump", c.Predicted)
	}
}

// What is written after the last count, and what the target has yet to read, are in it.
func TestPredictionOfAFreezeNow(t *testing.T) {
	p := preCopy(time.Second, sample(100, 50)) // 50 MiB/s, 100 MiB/s
	p.Costs, p.ResidentBytes = costs(300*time.Millisecond, 200), 400*mib
	p.Costs.Handover = Line{Slope: 2, P: [3]float64{1, 0, 1}, Seen: 1}
	for name, k := range map[string]struct {
		since  time.Duration
		unread int64
		want   time.Duration
	}{
		// 300 ms, 2 s of restore, and a second of dump and two of hand-over for 100 MiB.
		"just counted":              {0, 0, 3800 * time.Millisecond},
		"counted a second ago":      {time.Second, 0, 5300 * time.Millisecond},
		"counted an hour ago":       {time.Hour, 0, 14300 * time.Millisecond},
		"by a clock that was set":   {-time.Second, 0, 3800 * time.Millisecond},
		"read while it is dumped":   {0, 40 * mib, 3800 * time.Millisecond},
		"read for longer than that": {0, 100 * mib, 5 * time.Second},
	} {
		if got := p.Downtime(k.since, k.unread).Round(time.Millisecond); got != k.want {
			t.Errorf("%s: %s, want %s", name, got, k.want)
		}
	}
	p.Rounds = nil
	if got := p.Downtime(time.Second, 0); got != 0 {
		t.Errorf("predicted %s without a bandwidth", got)
	}
}

func TestSmallRoundsSayLittleAboutBandwidth(t *testing.T) {
	// A round of 1 MiB in a second measures what a round costs, not the disk.
	if b := bandwidth([]RoundSample{sample(1000, 1), sample(1, 1)}); b < 990*mib {
		t.Errorf("bandwidth = %d MiB/s", b/mib)
	}
	if b := bandwidth([]RoundSample{sample(100, 1), sample(100, 1), {Bytes: 50 * mib, Duration: time.Second}}); b >= 100*mib || b <= 50*mib {
		t.Errorf("bandwidth = %d MiB/s", b/mib)
	}
	if b := bandwidth([]RoundSample{{}, {Bytes: 5}}); b != 0 {
		t.Errorf("bandwidth of nothing = %d", b)
	}
}

// Whatever was measured, pre-copy ends.
func FuzzConverge(f *testing.F) {
	f.Add(int64(1<<30), int64(1<<20), int64(time.Second), int64(time.Second), uint8(8), uint8(3))
	f.Add(int64(0), int64(0), int64(0), int64(0), uint8(1), uint8(1))
	f.Add(int64(-5), int64(1<<62), int64(-1), int64(1), uint8(16), uint8(16))
	f.Fuzz(func(t *testing.T, bytes, dirty, took, target int64, maxRounds, rounds uint8) {
		p := PreCopy{MaxRounds: int32(maxRounds % 17), TargetDowntime: time.Duration(target), DirtyBytes: dirty, OnStall: v1alpha1.OnStallAbort}
		for range rounds % 20 {
			p.Rounds = append(p.Rounds, RoundSample{Bytes: bytes, Duration: time.Duration(took), DirtyBytes: dirty})
		}
		c := Converge(p)
		if c.Reason == "" || c.Message == "" {
			t.Errorf("no reason: %+v", c)
		}
		if c.Verdict == v1alpha1.VerdictContinue && len(p.Rounds) > 0 && len(p.Rounds) >= int(p.MaxRounds) {
			t.Errorf("goes on after %d of %d rounds", len(p.Rounds), p.MaxRounds)
		}
		if c.Verdict == v1alpha1.VerdictSwitch && len(p.Rounds) > 0 && p.MaxRounds > 0 && c.Predicted > p.TargetDowntime {
			t.Errorf("switches at %s, above %s, without being told to", c.Predicted, p.TargetDowntime)
		}
		// Who accepts a longer downtime never has to wait longer.
		patient := p
		patient.TargetDowntime = max(p.TargetDowntime, p.TargetDowntime/2*3)
		if c.Verdict == v1alpha1.VerdictSwitch && Converge(patient).Verdict != v1alpha1.VerdictSwitch {
			t.Errorf("%+v switches within %s, and not within %s", p, p.TargetDowntime, patient.TargetDowntime)
		}
		p.OnStall = v1alpha1.OnStallStopAndCopy
		if c := Converge(p); c.Verdict == v1alpha1.VerdictStalled {
			t.Errorf("stalls though stop-and-copy is wanted: %+v", c)
		}
	})
}

func TestFormatBytes(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 512: "512", 1023: "1023", 1024: "1Ki", 96<<10 + 5: "96Ki", 8 << 20: "8Mi", 8<<20 + 1: "8Mi",
		1 << 30: "1Gi", 3 << 29: "1.5Gi", 11<<30 + 5: "11Gi"} {
		if got := FormatBytes(n); got != want {
			t.Errorf("FormatBytes(%d) = %s, want %s", n, got, want)
		}
	}
}
