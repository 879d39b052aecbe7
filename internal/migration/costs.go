// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"math"
	"time"

	"godwit.dev/godwit/api/v1alpha1"
)

// Costs predicts a switchover's downtime from what earlier ones from and to the same
// node took. Each of its three parts is a straight line: a fixed part, and one that
// grows with memory. The slope and the offset of a line are fitted to the
// measurements by recursive least squares, which forgets old ones slowly; before
// there are any, the line is a guess for ordinary hardware. The zero value is
// ready for use.
type Costs struct {
	// FreezeAndDump over the seconds that the final memory takes at the rounds'
	// bandwidth. While tasks stand still it may go faster or slower than that.
	FreezeAndDump Line `json:"freezeAndDump"`
	// Handover over the same: both sides read what the final dump has written, the
	// target from the volume.
	Handover Line `json:"handoverOfTransfer"`
	// WholeDump and WholeHandover are the same of a final dump that builds on no round:
	// it writes all memory in large pieces, and not single pages from all over it.
	WholeDump     Line `json:"wholeDump"`
	WholeHandover Line `json:"wholeHandover"`
	// Restore over the GiB of resident memory: all of it is put back.
	Restore Line `json:"restore"`
	// Bandwidth to the volume of the last migrations, in bytes per second; 0 before
	// the first.
	Bandwidth int64 `json:"bandwidth,omitempty"`
}

// What is assumed of a node without a measurement, in the units of Costs.
var (
	guessDump     = guess{offset: 0.15, slope: 1}
	guessHandover = guess{offset: 0.1, slope: 0.3}
	guessRestore  = guess{offset: 0.25, slope: 1}
)

// Load is what a downtime is made of.
type Load struct {
	// FinalBytes of memory that the final dump writes.
	FinalBytes int64
	// UnreadBytes of rounds that the target has yet to read when the pod is frozen. It
	// reads them while the final dump is written, and what is left then is waited for.
	UnreadBytes int64
	// Whole: the final dump builds on no round.
	Whole bool
	// ResidentBytes that the restore puts back.
	ResidentBytes int64
	// Containers of the pod, which are restored one after the other; 0 is one.
	Containers int
	// Bandwidth to the volume as the rounds have measured it, in bytes per second; 0
	// leaves the memory out of what depends on it.
	Bandwidth int64
}

func (l Load) seconds() float64 { return transfer(l.FinalBytes, l.Bandwidth).Seconds() }

const gib = float64(1 << 30)

// Predict the downtime of a switchover. No part of it is negative.
func (c *Costs) Predict(l Load) v1alpha1.DowntimeStatus {
	dumps, handovers := c.lines(l.Whole)
	if dumps.Seen == 0 { // the other kind says more of this node than a guess does
		dumps, handovers = c.lines(!l.Whole)
	}
	dump := dumps.at(guessDump, l.seconds())
	handover := min(longest, handovers.at(guessHandover, l.seconds())+c.left(l, dump))
	restore := c.Restore.at(guessRestore, float64(l.ResidentBytes)/gib) + seconds(c.others(l))
	return downtimeOf(dump, handover, restore)
}

// Learn takes a measured downtime into account.
func (c *Costs) Learn(l Load, measured v1alpha1.DowntimeStatus) {
	if l.Bandwidth > 0 {
		dumps, handovers := c.lines(l.Whole)
		dumps.learn(guessDump, l.seconds(), measured.FreezeAndDump.Seconds())
		handover := max(0, measured.Handover.Duration-c.left(l, measured.FreezeAndDump.Duration))
		handovers.learn(guessHandover, l.seconds(), handover.Seconds())
		if c.Bandwidth <= 0 {
			c.Bandwidth = l.Bandwidth
		}
		c.Bandwidth += (l.Bandwidth - c.Bandwidth) / 2
	}
	if one := measured.Restore.Seconds() - c.others(l); one > 0 {
		c.Restore.learn(guessRestore, float64(l.ResidentBytes)/gib, one)
	}
}

// lines of the dump and of the hand-over.
func (c *Costs) lines(whole bool) (dump, handover *Line) {
	if whole {
		return &c.WholeDump, &c.WholeHandover
	}
	return &c.FreezeAndDump, &c.Handover
}

// left is for how long the target still reads rounds when the final dump, which takes so
// long, has ended.
func (c *Costs) left(l Load, dump time.Duration) time.Duration {
	read := c.Handover.at(guessHandover, transfer(l.UnreadBytes, l.Bandwidth).Seconds()) - c.Handover.at(guessHandover, 0)
	return max(0, read-dump)
}

// others is what the restores of all containers but one take, in seconds, apart from
// the memory: what one of them takes, each.
func (c *Costs) others(l Load) float64 {
	return float64(max(l.Containers, 1)-1) * max(0, c.Restore.begin(guessRestore).Offset)
}

// guess is a line before anything was measured.
type guess struct{ offset, slope float64 }

// How sure a guess is, as the variance of what it says in relation to that of a
// measurement: the offset differs from machine to machine by far more than two
// measurements do, the slope somewhat less. forget is how much a measurement is
// worth when the next has come.
const (
	offsetDoubt = 100.0
	slopeDoubt  = 10.0
	forget      = 0.9
)

// slopeShare is the part of a guessed slope that a fitted one has at least.
const slopeShare = 4

// One measurement that is far above what those before it say is no measure of the
// node: an agent was restarted in the middle, the volume stood still. Once a line is
// settled by so many measurements, a value counts for at most so many times the
// line's, and a bit. A node that has become slower is followed all the same, in a few
// steps.
const (
	settledBy   = 2
	outlier     = 3.0
	outlierBase = 0.1 // seconds
)

// Line is a fitted line. Its fields are the state of the fit.
type Line struct {
	// Offset in seconds, Slope in seconds per unit.
	Offset float64 `json:"offset"`
	Slope  float64 `json:"slope"`
	// P is the symmetric matrix of their (co)variances: offset, both, slope.
	P [3]float64 `json:"p"`
	// Seen measurements; with none the other fields mean nothing.
	Seen int `json:"seen"`
}

// begin returns the line with the guess put in where nothing was measured, or
// where what was stored is no line.
func (l Line) begin(g guess) Line {
	sum := l.Offset + l.Slope + l.P[0] + l.P[1] + l.P[2]
	if l.Seen <= 0 || math.IsNaN(sum) || math.IsInf(sum, 0) || l.Slope < 0 || l.P[0] <= 0 || l.P[2] <= 0 {
		return Line{Offset: g.offset, Slope: g.slope, P: [3]float64{offsetDoubt, 0, slopeDoubt}}
	}
	return l
}

// at is the line's value in seconds, 0 at least and bounded.
func (l Line) at(g guess, x float64) time.Duration {
	b := l.begin(g)
	return seconds(b.Offset + b.Slope*x)
}

// learn takes a point into the fit.
func (l *Line) learn(g guess, x, y float64) {
	if math.IsNaN(x+y) || math.IsInf(x+y, 0) || x < 0 || y < 0 {
		return
	}
	b := l.begin(g)
	if b.Seen >= settledBy {
		y = min(y, outlier*max(0, b.Offset+b.Slope*x)+outlierBase)
	}
	// The gain for the regressors (1, x).
	p0, p1 := b.P[0]+b.P[1]*x, b.P[1]+b.P[2]*x
	s := forget + p0 + p1*x
	k0, k1 := p0/s, p1/s
	miss := y - b.Offset - b.Slope*x
	b.Offset += k0 * miss
	b.Slope += k1 * miss
	// Forgetting lets doubt grow again, but never beyond that of the guess: a node
	// that moves pods of one size only would end up with a slope out of nowhere.
	b.P = [3]float64{
		min((b.P[0]-k0*p0)/forget, offsetDoubt),
		(b.P[1] - k0*p1) / forget,
		min((b.P[2]-k1*p1)/forget, slopeDoubt),
	}
	if limit := math.Sqrt(b.P[0] * b.P[2]); math.Abs(b.P[1]) > limit {
		b.P[1] = math.Copysign(limit, b.P[1])
	}
	// More memory never takes less time, nor none: what a few measurements of different
	// pods say by chance must not make every amount of dirty memory look free.
	if least := g.slope / slopeShare; b.Slope < least {
		b.Offset, b.Slope = b.Offset+(b.Slope-least)*x, least
	}
	b.Seen = l.Seen + 1
	*l = b
}

// longest is more than any downtime that is waited for.
const longest = 24 * time.Hour

func seconds(s float64) time.Duration {
	return time.Duration(min(max(s, 0), longest.Seconds()) * float64(time.Second))
}
