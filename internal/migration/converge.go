// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"

	"godwit.dev/godwit/api/v1alpha1"
)

// RoundSample is what one pre-copy round measured, summed over the containers.
type RoundSample struct {
	// Bytes of memory written, and how long the round took.
	Bytes    int64
	Duration time.Duration
	// Frozen is how long the pod stood still for it.
	Frozen time.Duration
	// DirtyBytes is the memory dirtied again by the end of the round.
	DirtyBytes int64
}

// PreCopy is everything Converge looks at.
type PreCopy struct {
	// Rounds finished so far, oldest first.
	Rounds []RoundSample
	// DirtyBytes now; it may be newer than the last round's.
	DirtyBytes int64
	// FinalOnlyBytes is memory that only the final dump can take (memfd, SysV
	// shared memory): no round makes it smaller.
	FinalOnlyBytes int64
	// ResidentBytes is all memory that the target has to put back.
	ResidentBytes int64
	// Containers that are restored one after the other; 0 is one.
	Containers int
	// Costs of switchovers, as this node has learned them.
	Costs Costs
	// MaxRounds, TargetDowntime and OnStall from the spec.
	MaxRounds      int32
	TargetDowntime time.Duration
	OnStall        v1alpha1.OnStallPolicy
	// TargetBandwidth is what the target reads of a round, in bytes per second, while the
	// pod runs; 0 when nobody knows. A pod that writes faster does not converge, however
	// fast its rounds are: each begins when the target has read the one before.
	TargetBandwidth int64
	// CPUPercent is what the pod has left of its CPU time; 0 and 100 mean all.
	CPUPercent int32
	// Budget is how long the pod's probes let it be frozen; 0 for no limit. A
	// downtime above it must not be tried, whatever OnStall says.
	Budget time.Duration
}

// Reasons of a convergence decision.
const (
	ConvergeFirstRound      = "FirstRound"
	ConvergeNoPreCopy       = "NoPreCopy"
	ConvergeWithinTarget    = "WithinTargetDowntime"
	ConvergeShrinking       = "DirtyShrinking"
	ConvergeNotShrinking    = "DirtyNotShrinking"
	ConvergeMaxRounds       = "MaxRoundsReached"
	ConvergeRateTooHigh     = "DirtyRateAboveBandwidth"
	ConvergeAboveBudget     = "AboveProbeBudget"
	ConvergeFixedCostTooBig = "FixedCostAboveTarget"
)

// Convergence is the decision after a round.
type Convergence struct {
	Verdict v1alpha1.ConvergenceVerdict
	// Reason is one of the Converge constants, Message the same with numbers.
	Reason, Message string
	// Predicted downtime if the switchover began now.
	Predicted time.Duration
	// Bandwidth in bytes per second: the rounds' exponentially weighted mean, or,
	// before the first, the node's.
	Bandwidth int64
	// DirtyRate in bytes per second during the last round.
	DirtyRate int64
	// CPUPercent is what to leave the pod of its CPU time from now on, with
	// VerdictThrottle less than before; 100 for all.
	CPUPercent int32
}

// throttleSteps are what is left to a pod, one step after the other. QEMU's
// auto-converge takes smaller ones; each of ours costs a round.
var throttleSteps = []int32{50, 25, 10, 5}

// throttle is the step after this one; ok is false when there is none.
func throttle(percent int32) (next int32, ok bool) {
	for _, s := range throttleSteps {
		if s < percent {
			return s, true
		}
	}
	return percent, false
}

// Weight of the newest round in the bandwidth estimate, and the share a round
// must shrink the dirty set by to count as progress.
const (
	bandwidthWeight = 0.5
	progress        = 0.9
)

// Converge decides whether another round is worth it. Rules, first match wins:
// no pre-copy asked for; nothing copied yet; within the target; out of rounds;
// dirtied as fast as it is copied; no longer shrinking; the fixed cost alone is
// above the target and memory is the small part. The dirty set is compared with
// the one after the round before, never with the first round's nothing.
func Converge(p PreCopy) Convergence {
	if p.CPUPercent <= 0 || p.CPUPercent > 100 {
		p.CPUPercent = 100
	}
	c := Convergence{Bandwidth: p.bandwidth(), CPUPercent: p.CPUPercent}
	final := p.DirtyBytes + p.FinalOnlyBytes
	if c.Bandwidth > 0 {
		c.Predicted = p.predict(final, c.Bandwidth)
	}
	n := len(p.Rounds)
	switch {
	case p.MaxRounds == 0:
		c.Verdict, c.Reason, c.Message = v1alpha1.VerdictSwitch, ConvergeNoPreCopy, "single dump: all memory is copied while the pod is frozen"
		return c
	case n == 0:
		c.Verdict, c.Reason, c.Message = v1alpha1.VerdictContinue, ConvergeFirstRound, "the first round copies all memory"
		return c
	}
	if p.Budget > 0 {
		p.TargetDowntime = min(p.TargetDowntime, p.Budget)
	}
	last := p.Rounds[n-1]
	if last.Duration > 0 {
		c.DirtyRate = int64(float64(last.DirtyBytes) / last.Duration.Seconds())
	}
	fixed := p.predict(0, c.Bandwidth)
	dirty := bytesString(p.DirtyBytes)

	stalled := func(reason, format string, args ...any) Convergence {
		c.Reason, c.Message = reason, fmt.Sprintf(format, args...)
		c.Message += fmt.Sprintf("; %s/s were dirtied and %s/s copied in the last round", bytesString(c.DirtyRate), bytesString(c.Bandwidth))
		if p.TargetBandwidth > 0 {
			c.Message += fmt.Sprintf(", of which the target read %s/s", bytesString(p.TargetBandwidth))
		}
		c.Verdict, c.CPUPercent = v1alpha1.VerdictStalled, 100
		next, slower := throttle(p.CPUPercent)
		switch {
		case p.OnStall == v1alpha1.OnStallThrottle && fixed < p.TargetDowntime && slower:
			c.Verdict, c.CPUPercent = v1alpha1.VerdictThrottle, next
			c.Message += fmt.Sprintf("; leaving the pod %d%% of its CPU time (onStall: Throttle)", next)
			return c
		case p.OnStall == v1alpha1.OnStallThrottle && p.CPUPercent < 100:
			c.Message += fmt.Sprintf("; although it had %d%% of its CPU time only", p.CPUPercent)
		}
		switch {
		case p.Budget > 0 && c.Predicted > p.Budget:
			c.Reason = ConvergeAboveBudget
			c.Message += fmt.Sprintf("; kubelet's probes put up with %s only, and would restart the pod in the middle of the switchover", round(p.Budget))
		case p.OnStall == v1alpha1.OnStallStopAndCopy:
			c.Verdict = v1alpha1.VerdictSwitch
			c.Message += "; switching over all the same (onStall: StopAndCopy)"
		}
		return c
	}
	switch {
	case c.Predicted <= p.TargetDowntime:
		c.Verdict, c.Reason = v1alpha1.VerdictSwitch, ConvergeWithinTarget
		c.Message = fmt.Sprintf("%s dirty, predicted downtime %s is within %s", dirty, round(c.Predicted), p.TargetDowntime)
		return c
	case int32(n) >= p.MaxRounds:
		return stalled(ConvergeMaxRounds, "%s dirty after %d rounds, predicted downtime %s is above %s", dirty, n, round(c.Predicted), p.TargetDowntime)
	case n >= 2 && c.DirtyRate > 0 && c.DirtyRate >= c.Bandwidth:
		return stalled(ConvergeRateTooHigh, "memory is dirtied as fast as it is copied")
	case n >= 2 && float64(last.DirtyBytes) > progress*float64(p.Rounds[n-2].DirtyBytes):
		return stalled(ConvergeNotShrinking, "%s dirty, no less than a round ago; predicted downtime %s is above %s", dirty, round(c.Predicted), p.TargetDowntime)
	case fixed >= p.TargetDowntime && c.Predicted-fixed < fixed/10:
		return stalled(ConvergeFixedCostTooBig, "%s dirty; what a switchover of this pod costs without any (%s) is above the target downtime %s", dirty, round(fixed), p.TargetDowntime)
	}
	c.Verdict, c.Reason = v1alpha1.VerdictContinue, ConvergeShrinking
	c.Message = fmt.Sprintf("%s dirty, predicted downtime %s is above %s", dirty, round(c.Predicted), p.TargetDowntime)
	return c
}

// bandwidth to the volume in bytes per second, as the rounds have measured it, or
// the node before the first; 0 when nobody knows.
func (p PreCopy) bandwidth() int64 {
	if b := bandwidth(p.Rounds); b > 0 {
		return b
	}
	return p.Costs.Bandwidth
}

// ToCommit predicts how long it takes from a freeze now to the commit. The restore comes
// after that.
func (p PreCopy) ToCommit() time.Duration {
	d := p.Costs.Predict(p.load(p.DirtyBytes+p.FinalOnlyBytes, 0, p.bandwidth()))
	return d.FreezeAndDump.Duration + d.Handover.Duration
}

func (p PreCopy) predict(final, bandwidth int64) time.Duration {
	return p.Costs.Predict(p.load(final, 0, bandwidth)).Total.Duration
}

// Downtime predicted for a freeze that begins so long after the dirty memory was counted,
// when the target has so many bytes of rounds to read; 0 when no bandwidth is known. The
// pod is taken to have gone on writing as fast as in the last round.
func (p PreCopy) Downtime(counted time.Duration, unread int64) time.Duration {
	b := p.bandwidth()
	if b <= 0 {
		return 0
	}
	final := float64(max(0, p.DirtyBytes))
	if n := len(p.Rounds); n > 0 && p.Rounds[n-1].Duration > 0 {
		last := p.Rounds[n-1]
		final += float64(max(0, last.DirtyBytes)) * max(0, counted.Seconds()) / last.Duration.Seconds()
	}
	if p.ResidentBytes > 0 {
		final = min(final, float64(max(p.ResidentBytes, p.DirtyBytes)))
	}
	return p.frozenAfter(float64(max(0, unread)), final, b)
}

// frozenAfter is the downtime predicted for a freeze that writes final bytes, right
// after a round that has written others, of which the target has read nothing.
func (p PreCopy) frozenAfter(written, final float64, bandwidth int64) time.Duration {
	return p.Costs.Predict(p.load(bytesOf(final+float64(p.FinalOnlyBytes)), bytesOf(written), bandwidth)).Total.Duration
}

func (p PreCopy) load(final, unread, bandwidth int64) Load {
	return Load{
		FinalBytes: final, UnreadBytes: unread, Whole: len(p.Rounds) == 0,
		ResidentBytes: p.ResidentBytes, Containers: p.Containers, Bandwidth: bandwidth,
	}
}

// bandwidth is the weighted mean over the rounds. Small rounds measure fixed
// costs rather than bandwidth, so a round counts by its share of the largest.
func bandwidth(rounds []RoundSample) int64 {
	var mean float64
	var largest int64
	for _, r := range rounds {
		largest = max(largest, r.Bytes)
	}
	for _, r := range rounds {
		if r.Duration <= 0 || r.Bytes <= 0 {
			continue
		}
		rate := float64(r.Bytes) / r.Duration.Seconds()
		if mean == 0 {
			mean = rate
			continue
		}
		w := bandwidthWeight * float64(r.Bytes) / float64(largest)
		mean += w * (rate - mean)
	}
	return int64(mean)
}

func transfer(bytes, perSecond int64) time.Duration {
	if perSecond <= 0 {
		return 0
	}
	return seconds(float64(bytes) / float64(perSecond))
}

func round(d time.Duration) time.Duration { return d.Round(10 * time.Millisecond) }

// bytesString writes a number of bytes for people: "8Mi".
func bytesString(n int64) string {
	return FormatBytes(n)
}

// FormatBytes writes a number of bytes for people, in binary units rounded to
// at most four digits: "512", "96Ki", "8Mi", "1.5Gi".
func FormatBytes(n int64) string {
	switch {
	case n >= 10<<30 || n >= 1<<30 && n%(1<<30) == 0:
		n = n >> 30 << 30
	case n >= 1<<30:
		return fmt.Sprintf("%.1fGi", float64(n)/(1<<30))
	case n >= 1<<20:
		n = n >> 20 << 20
	case n >= 1<<10:
		n = n >> 10 << 10
	}
	return resource.NewQuantity(n, resource.BinarySI).String()
}
