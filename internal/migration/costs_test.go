// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"godwit.dev/godwit/api/v1alpha1"
)

// machine is the truth that Costs has to find out.
type machine struct {
	freeze, handover, restore time.Duration
	// verify and putBack in bytes per second; dump in parts of the bandwidth.
	verify, putBack int64
	dump            float64
	noise           float64
}

func (m machine) measure(l Load, random *rand.Rand) (parts [3]time.Duration) {
	noisy := func(d time.Duration) time.Duration {
		return time.Duration(float64(d) * (1 + m.noise*(2*random.Float64()-1)))
	}
	return [3]time.Duration{
		noisy(m.freeze + time.Duration(float64(transfer(l.FinalBytes, l.Bandwidth))/m.dump)),
		noisy(m.handover + transfer(l.FinalBytes, m.verify)),
		noisy(m.restore + transfer(l.ResidentBytes, m.putBack)),
	}
}

var (
	ordinary = machine{80 * time.Millisecond, 40 * time.Millisecond, 200 * time.Millisecond, 1500 * mib, 2500 * mib, 1.3, 0.05}
	emulated = machine{1300 * time.Millisecond, 900 * time.Millisecond, 3 * time.Second, 90 * mib, 150 * mib, 0.8, 0.1}
)

// After a few migrations of different sizes the prediction is near what comes.
func TestCostsAreLearned(t *testing.T) {
	for name, m := range map[string]machine{"ordinary": ordinary, "emulated": emulated} {
		t.Run(name, func(t *testing.T) {
			random := rand.New(rand.NewPCG(1, 2))
			load := func() Load {
				resident := (64 + random.Int64N(1000)) * mib
				return Load{FinalBytes: resident / (2 + random.Int64N(60)), ResidentBytes: resident, Bandwidth: 200 * mib}
			}
			var c Costs
			for range 8 {
				l := load()
				p := m.measure(l, random)
				c.Learn(l, downtimeOf(p[0], p[1], p[2]))
			}
			for range 50 {
				l := load()
				p := m.measure(l, random)
				got, want := c.Predict(l).Total.Seconds(), downtimeOf(p[0], p[1], p[2]).Total.Seconds()
				if off := math.Abs(got-want) / want; off > 0.3 {
					t.Errorf("%+v: predicted %.2f s, took %.2f s", l, got, want)
				}
			}
		})
	}
}

// One migration is enough to predict another like it.
func TestOneMeasurementCounts(t *testing.T) {
	l := Load{FinalBytes: 10 * mib, ResidentBytes: 300 * mib, Bandwidth: 30 * mib}
	var c Costs
	c.Learn(l, downtimeOf(3*time.Second, time.Second, 6*time.Second))
	if got := c.Predict(l).Total.Duration; got < 9*time.Second || got > 10*time.Second {
		t.Errorf("predicted %s of 10 s", got)
	}
	if c.Bandwidth != 30*mib {
		t.Errorf("bandwidth %d", c.Bandwidth)
	}
}

// A node that moves pods of one size only knows nothing of others: what it says of
// them stays sane, and the size it knows is predicted well.
// A switchover that somebody held up says little about the next; a node that has
// become slower does.
func TestOutliers(t *testing.T) {
	l := Load{FinalBytes: 8 << 20, ResidentBytes: 256 << 20, Bandwidth: 100 << 20}
	usual := v1alpha1.DowntimeStatus{
		FreezeAndDump: metav1.Duration{Duration: 500 * time.Millisecond},
		Handover:      metav1.Duration{Duration: 300 * time.Millisecond},
		Restore:       metav1.Duration{Duration: time.Second},
	}
	var c Costs
	for range 4 {
		c.Learn(l, usual)
	}
	before := c.Predict(l).Total.Duration
	held := usual
	held.Handover.Duration = time.Minute
	c.Learn(l, held)
	if after := c.Predict(l).Total.Duration; after > before+time.Second {
		t.Errorf("one hand-over of a minute takes the prediction from %s to %s", before, after)
	}
	slower := usual
	slower.Handover.Duration = 3 * time.Second
	for range 20 {
		c.Learn(l, slower)
	}
	if after := c.Predict(l).Handover.Duration; after < 2500*time.Millisecond {
		t.Errorf("after twenty hand-overs of 3 s each the prediction is %s", after)
	}
}

func TestOneSizeOnly(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	l := Load{FinalBytes: 5 * mib, ResidentBytes: 200 * mib, Bandwidth: 100 * mib}
	var c Costs
	for range 500 {
		p := ordinary.measure(l, random)
		c.Learn(l, downtimeOf(p[0], p[1], p[2]))
	}
	p := machine{ordinary.freeze, ordinary.handover, ordinary.restore, ordinary.verify, ordinary.putBack, ordinary.dump, 0}.measure(l, random)
	want := downtimeOf(p[0], p[1], p[2]).Total.Duration
	if got := c.Predict(l).Total.Duration; got < want*9/10 || got > want*11/10 {
		t.Errorf("predicted %s, want about %s", got, want)
	}
	small, large := c.Predict(Load{ResidentBytes: mib, Bandwidth: 100 * mib}).Total.Duration, c.Predict(Load{ResidentBytes: 2 << 30, FinalBytes: 100 * mib, Bandwidth: 100 * mib}).Total.Duration
	if small > want || large < want || large > time.Minute {
		t.Errorf("predicted %s of little and %s of much memory, %s between", small, large, want)
	}
}

// It follows a machine that has changed.
func TestCostsForget(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	var c Costs
	l := Load{FinalBytes: 5 * mib, ResidentBytes: 200 * mib, Bandwidth: 100 * mib}
	for _, m := range []machine{ordinary, emulated} {
		var want time.Duration
		for range 25 {
			p := m.measure(l, random)
			d := downtimeOf(p[0], p[1], p[2])
			c.Learn(l, d)
			want = d.Total.Duration
		}
		if got := c.Predict(l).Total.Duration; got < want*7/10 || got > want*13/10 {
			t.Errorf("predicted %s, took %s", got, want)
		}
	}
}

// Whatever was measured or stored, a prediction is a sane number, and more memory
// never takes less time.
func FuzzCosts(f *testing.F) {
	f.Add(int64(1<<30), int64(1<<20), int64(1<<27), int64(time.Second), int64(time.Second), 0.3, 1.0, 1.0, 3)
	f.Add(int64(0), int64(0), int64(0), int64(0), int64(0), 0.0, 0.0, 0.0, 0)
	f.Add(int64(-1), int64(1<<62), int64(1), int64(-5), int64(1<<62), math.Inf(1), -1.0, 1e300, 9)
	f.Fuzz(func(t *testing.T, resident, final, bandwidth, dump, restore int64, offset, slope, p float64, seen int) {
		stored := Line{Offset: offset, Slope: slope, P: [3]float64{p, -p, p}, Seen: seen}
		c := Costs{FreezeAndDump: stored, Handover: stored, WholeDump: stored, WholeHandover: stored, Restore: stored}
		l := Load{FinalBytes: final, UnreadBytes: resident / 3, Whole: seen%2 == 1, ResidentBytes: resident, Bandwidth: bandwidth}
		for range 5 {
			c.Learn(l, downtimeOf(time.Duration(dump), time.Duration(restore), time.Duration(restore)))
		}
		d := c.Predict(l)
		for _, part := range []time.Duration{d.FreezeAndDump.Duration, d.Handover.Duration, d.Restore.Duration} {
			if part < 0 || part > longest {
				t.Errorf("%+v", d)
			}
		}
		less := Load{FinalBytes: final / 2, UnreadBytes: resident / 6, Whole: l.Whole, ResidentBytes: resident / 2, Bandwidth: bandwidth}
		if resident >= 0 && final >= 0 && c.Predict(less).Total.Duration > d.Total.Duration {
			t.Errorf("half the memory takes longer: %s, %s", c.Predict(less).Total.Duration, d.Total.Duration)
		}
	})
}

// Small pods that were slow and large ones that were quick, by chance: dirty memory
// still costs something, or nobody would make another round.
func TestDirtyMemoryIsNeverFree(t *testing.T) {
	var c Costs
	for i := range int64(12) {
		slow := 20*time.Second - time.Duration(i)*time.Second
		c.Learn(Load{FinalBytes: (1 + 6*i) * mib, ResidentBytes: (32 + 20*i) * mib, Bandwidth: 20 * mib}, downtimeOf(slow, slow, slow))
	}
	l := Load{ResidentBytes: 128 * mib, Bandwidth: 20 * mib}
	clean := c.Predict(l).Total.Duration
	l.FinalBytes = 64 * mib
	if dirty := c.Predict(l).Total.Duration; dirty < clean+time.Second {
		t.Errorf("predicted %s with 64 MiB dirty at 20 MiB/s, %s with none", dirty, clean)
	}
}

// The containers of a pod are restored one after the other, and what a pod with several
// has taken says what one takes.
func TestContainersAreRestoredOneAfterTheOther(t *testing.T) {
	var c Costs
	for range 10 {
		l := Load{ResidentBytes: 0, Bandwidth: 1 << 30}
		c.Learn(l, downtimeOf(time.Second, time.Second, time.Second))
	}
	single := c.Predict(Load{Containers: 1}).Restore.Duration
	if three := c.Predict(Load{Containers: 3}).Restore.Duration; (three - 3*single).Abs() > 10*time.Millisecond {
		t.Errorf("three take %s, one %s", three, single)
	}
	for range 10 {
		c.Learn(Load{Containers: 3, Bandwidth: 1 << 30}, downtimeOf(time.Second, time.Second, 3*time.Second))
	}
	if got := c.Predict(Load{}).Restore.Duration; (got - single).Abs() > 50*time.Millisecond {
		t.Errorf("after pods with three containers one takes %s, was %s", got, single)
	}
	// Less than the others alone are expected to take says nothing.
	before := c
	c.Learn(Load{Containers: 9}, downtimeOf(0, 0, time.Second))
	if c.Restore != before.Restore {
		t.Errorf("learned %+v from too little, was %+v", c.Restore, before.Restore)
	}
}

// What the target had to read besides says nothing about what a hand-over costs.
func TestCostsOfAHandoverBesideReading(t *testing.T) {
	var c Costs
	l := Load{FinalBytes: 10 * mib, ResidentBytes: 256 * mib, Bandwidth: 100 * mib}
	for range 20 {
		c.Learn(l, downtimeOf(time.Second, 200*time.Millisecond, time.Second))
	}
	quiet := c.Predict(l)
	l.UnreadBytes = 2000 * mib
	busy := c.Predict(l)
	waits := busy.Handover.Duration - quiet.Handover.Duration
	if waits <= 0 || busy.FreezeAndDump != quiet.FreezeAndDump || busy.Restore != quiet.Restore {
		t.Fatalf("%+v with 2000 MiB to read, %+v without", busy, quiet)
	}
	c.Learn(l, busy)
	l.UnreadBytes = 0
	if got := c.Predict(l).Handover.Duration; (got - quiet.Handover.Duration).Abs() > 10*time.Millisecond {
		t.Errorf("a hand-over takes %s after one that waited for %s, %s before", got, waits, quiet.Handover.Duration)
	}
	l.UnreadBytes = mib
	if got := c.Predict(l); got.Total.Duration != c.Predict(Load{FinalBytes: 10 * mib, ResidentBytes: 256 * mib, Bandwidth: 100 * mib}).Total.Duration {
		t.Errorf("%+v: a MiB is read while the dump is written", got)
	}
}

// What a dump of all memory takes says nothing about one of single pages, and the other
// way round; a restore is the same after both.
func TestCostsOfADumpThatBuildsOnNothing(t *testing.T) {
	var c Costs
	chained := Load{FinalBytes: 10 * mib, ResidentBytes: 256 * mib, Bandwidth: 50 * mib}
	whole := Load{FinalBytes: 256 * mib, ResidentBytes: 256 * mib, Bandwidth: 50 * mib, Whole: true}
	for range 10 {
		c.Learn(chained, downtimeOf(2*time.Second, time.Second, 3*time.Second))
	}
	before := c.Predict(chained)
	if got := c.Predict(whole).FreezeAndDump.Duration; got < 2*time.Second {
		t.Errorf("predicted %s of the first dump of all memory, though smaller ones took 2 s", got)
	}
	for range 10 {
		c.Learn(whole, downtimeOf(4*time.Second, 2*time.Second, 3*time.Second))
	}
	if got := c.Predict(chained); got.FreezeAndDump != before.FreezeAndDump || got.Handover != before.Handover {
		t.Errorf("%+v after dumps of all memory, %+v before", got, before)
	}
	got := c.Predict(whole)
	for _, k := range []struct{ got, want time.Duration }{
		{got.FreezeAndDump.Duration, 4 * time.Second}, {got.Handover.Duration, 2 * time.Second}, {got.Restore.Duration, 3 * time.Second},
	} {
		if (k.got - k.want).Abs() > 100*time.Millisecond {
			t.Errorf("predicted %s, want %s", k.got, k.want)
		}
	}
}
