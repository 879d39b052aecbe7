// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/node-agent/runtime/fake"
)

const mib = 1 << 20

// writer is a pod of 1 GiB that is quiet until its source is armed. On its node time
// goes by as the test wants it to, so that the agent sees the same in every run: in
// each dump, and in each of the agent's steps once it is armed.
type writer struct {
	*cluster
	pod *corev1.Pod

	clock sync.Mutex // of now
	now   time.Time

	mu        sync.Mutex
	container *fake.Container
	m         *v1alpha1.Migration
	// writes are the MiB that it writes before each of the counts once it is armed, early
	// those before each count until then.
	writes, early []int64
	// counts since then, and steps of the agent. After the last step that takes time
	// the clock stands still.
	counts, steps, lastStep int
	// counted is closed with the second count.
	counted chan struct{}
}

const (
	dumpTakes = 4 * time.Second // so 256 MiB/s
	stepTakes = 30 * time.Millisecond
)

// startWriter starts one that leaves so many MiB dirty after each round.
func startWriter(t *testing.T, leaves int64, writes ...int64) *writer {
	return startWriterLeaving(t, []int64{leaves}, writes...)
}

// startWriterLeaving starts one that leaves another amount after each round, and the
// last one after all that follow.
func startWriterLeaving(t *testing.T, leaves []int64, writes ...int64) *writer {
	return startWriterWith(t, 0, leaves, writes...)
}

// startWriterWith starts one on a node that believes the target's create to be parked for
// so long, by the node's clock.
func startWriterWith(t *testing.T, park time.Duration, leaves []int64, writes ...int64) *writer {
	w := &writer{cluster: newCluster(t), now: time.Now(), writes: writes, lastStep: 1000, counted: make(chan struct{})}
	n := w.node("n1")
	n.mu.Lock()
	n.sized = func(c *fake.Container) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.container = c
		var each []int64
		for _, n := range leaves {
			each = append(each, n*mib)
		}
		c.SetMemory(1024*mib, each...)
	}
	n.mu.Unlock()
	n.now, n.park = func() time.Time { return w.pass(0) }, park
	w.restartAgent("n1")
	// A dump reads the clock when it begins and when it ends.
	n.fake.SetClock(func() time.Time { return w.pass(dumpTakes) })
	n.fake.SetHook("Containers", func(context.Context, string) error { w.step(); return nil })
	n.fake.SetHook("DirtyBytes", func(context.Context, string) error { w.count(); return nil })
	w.pod = w.startPod("app")
	return w
}

func (w *writer) pass(d time.Duration) time.Time {
	w.clock.Lock()
	defer w.clock.Unlock()
	w.now = w.now.Add(d)
	return w.now
}

// armed asks the API server: the source is, and the target has prepared its restore.
func (w *writer) armed() bool {
	if w.m == nil {
		return false
	}
	var m v1alpha1.Migration
	return w.client.Get(w.ctx, client.ObjectKeyFromObject(w.m), &m) == nil && m.Status.Phase == v1alpha1.PhaseSwitchingOver &&
		m.Status.Target.PreparedAt != nil
}

func (w *writer) step() {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case !w.armed():
		return
	case w.steps == 0: // the last count was long ago
		w.pass(time.Second)
	case w.steps < w.lastStep:
		w.pass(stepTakes)
	}
	w.steps++
}

func (w *writer) count() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.armed() {
		if len(w.early) > 0 {
			w.container.Write(w.early[0] * mib)
			w.early = w.early[1:]
		}
		return
	}
	if w.counts < len(w.writes) {
		w.container.Write(w.writes[w.counts] * mib)
	}
	if w.counts++; w.counts == 2 {
		close(w.counted)
	}
}

func (w *writer) migrate(changes ...func(*v1alpha1.Migration)) *v1alpha1.Migration {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.m = w.cluster.migrate("app", func(m *v1alpha1.Migration) {
		// With the one round that may follow when it is armed, there are two.
		m.Spec.PreCopy.MaxRounds = ptr.To(int32(1))
		m.Spec.PreCopy.TargetDowntime = &metav1.Duration{Duration: 20 * time.Second}
		for _, change := range changes {
			change(m)
		}
	})
	return w.m.DeepCopy()
}

// outcome is what the final dump wrote, how many counts it was frozen after, and what
// the status says of it.
func (w *writer) outcome(m *v1alpha1.Migration) (finalMiB int64, counts int, message string) {
	w.t.Helper()
	w.awaitPhase(m, v1alpha1.PhaseSucceeded)
	w.runsOn("n2")
	w.mu.Lock()
	defer w.mu.Unlock()
	w.t.Logf("%d counts in %d steps, %d rounds: %s", w.counts, w.steps, *m.Status.Source.Round, m.Status.Source.Convergence.Message)
	return m.Status.Source.Containers[0].FinalDump.MemoryBytes / mib, w.counts, m.Status.Source.Convergence.Message
}

// A burst that goes on for five counts is waited for, then cleared by a round.
func TestAPodIsFrozenBetweenBursts(t *testing.T) {
	w := startWriter(t, 8, 256, 32, 32, 32, 32)
	m := w.migrate()
	final, counts, message := w.outcome(m)
	if final > 64 || *m.Status.Source.Round != 2 {
		t.Errorf("%d MiB were written while it was frozen%s", final, describe(m))
	}
	if counts < 7 {
		t.Errorf("counted %d times: it was not waited for the end", counts)
	}
	if !strings.Contains(message, "waited") || !strings.Contains(message, "for a pause in the pod's writing: another round takes") {
		t.Errorf("the status does not say what it was waited for: %s", message)
	}
}

// One that does not end is waited for for a second at most, which is a tenth of what
// the target may be parked.
func TestABurstWithoutAnEndIsNotWaitedFor(t *testing.T) {
	w := startWriter(t, 8, append([]int64{256}, slices.Repeat([]int64{32}, 1000)...)...)
	m := w.migrate()
	_, counts, message := w.outcome(m)
	if most := int(time.Second/(2*stepTakes)) + 2; counts > most || !strings.Contains(message, "wait") {
		t.Errorf("counted %d times: %s", counts, message)
	}
}

// What a pod has written while its target read is copied before anything waits for it, and
// again, as long as it becomes less.
func TestTheGateIsOpenedWhenLittleIsDirty(t *testing.T) {
	for name, tc := range map[string]struct {
		// In a round, which is counted when it ends, and then while the target reads it.
		early  []int64
		rounds int32 // before it is armed
	}{
		"less each time": {[]int64{0, 600, 0, 200, 0, 4}, 3},
		"as much again":  {[]int64{0, 400, 0, 390, 0, 4}, 2},
		"little":         {[]int64{0, 4}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			w := startWriter(t, 8)
			w.early = tc.early
			var rounds atomic.Int32
			// Rounds take longer than it takes the target to come.
			w.node("n1").fake.SetHook("PreDump", func(ctx context.Context, _ string) error {
				for ctx.Err() == nil {
					var m v1alpha1.Migration
					if err := w.client.Get(ctx, client.ObjectKeyFromObject(w.m), &m); err == nil && m.Status.Target != nil && m.Status.Target.State != "" {
						if m.Status.Phase == v1alpha1.PhasePreCopying {
							rounds.Add(1)
						}
						return nil
					}
					time.Sleep(pollInterval) // the hook has nothing to watch with
				}
				return ctx.Err()
			})
			m := w.migrate(func(m *v1alpha1.Migration) { m.Spec.PreCopy.MaxRounds = ptr.To(int32(8)) })
			w.outcome(m)
			if rounds.Load() != tc.rounds {
				t.Errorf("%d rounds before it was armed%s", rounds.Load(), describe(m))
			}
		})
	}
}

// Nothing is to be gained by waiting, or by another round.
func TestAPodWithoutBurstsIsFrozenAtOnce(t *testing.T) {
	for name, tc := range map[string]struct {
		leaves int64
		writes []int64
	}{
		"idle": {8, nil},
		// 32 MiB/s: in the four seconds of a round, in the second until it is armed, and on.
		"steady": {128, append([]int64{32}, slices.Repeat([]int64{2}, 1000)...)},
	} {
		t.Run(name, func(t *testing.T) {
			w := startWriter(t, tc.leaves, tc.writes...)
			m := w.migrate()
			_, counts, message := w.outcome(m)
			if counts > 2 || strings.Contains(message, "waited") || *m.Status.Source.Round != 1 {
				t.Errorf("frozen after %d counts: %s", counts, message)
			}
		})
	}
}

// A pod that has written a lot since it converged, while its target came up, is frozen
// when a round has brought it within the target downtime again, or else as onStall says.
func TestAnArmedPodIsFrozenWithinItsTarget(t *testing.T) {
	for name, tc := range map[string]struct {
		left    int64 // after the round that is made when it is armed
		onStall v1alpha1.OnStallPolicy
		park    time.Duration
		want    v1alpha1.MigrationPhase
		rounds  int32
		final   int64 // MiB at most
	}{
		"a round helps":             {8, v1alpha1.OnStallAbort, 0, v1alpha1.PhaseSucceeded, 2, 16},
		"no round does":             {900, v1alpha1.OnStallAbort, 0, v1alpha1.PhaseFailed, 2, 0},
		"no round does, it is told": {900, v1alpha1.OnStallStopAndCopy, time.Minute, v1alpha1.PhaseSucceeded, 2, 908},
		// The round takes four seconds, and the dump after it as long again.
		"its target cannot wait for a round, it is told": {8, v1alpha1.OnStallStopAndCopy, 8 * time.Second, v1alpha1.PhaseSucceeded, 1, 916},
	} {
		t.Run(name, func(t *testing.T) {
			w := startWriterWith(t, tc.park, []int64{8, tc.left}, 900)
			m := w.migrate(func(m *v1alpha1.Migration) {
				m.Spec.PreCopy.OnStall = tc.onStall
				// Of a GiB on a node that has learned nothing, 1.5 s are fixed.
				m.Spec.PreCopy.TargetDowntime = &metav1.Duration{Duration: 3 * time.Second}
			})
			w.awaitPhase(m, tc.want)
			if *m.Status.Source.Round != tc.rounds {
				t.Errorf("%d rounds%s", *m.Status.Source.Round, describe(m))
			}
			if tc.rounds == 1 && !strings.Contains(m.Status.Source.Convergence.Message, "cannot wait for another round") {
				t.Errorf("the status does not say why: %s", m.Status.Source.Convergence.Message)
			}
			if tc.want == v1alpha1.PhaseSucceeded {
				w.runsOn("n2")
				if final := m.Status.Source.Containers[0].FinalDump.MemoryBytes / mib; final > tc.final {
					t.Errorf("%d MiB were written while it was frozen", final)
				}
				return
			}
			if f := m.Status.Failure; f == nil || f.Reason != v1alpha1.ReasonStalled || !strings.Contains(f.Message, "is above 3s") {
				t.Errorf("failure %+v", f)
			}
			w.staysOnSource(w.pod, m)
			if slices.Contains(w.node("n1").fake.Methods(), "Freeze") {
				t.Error("it was frozen all the same")
			}
		})
	}
}

// Rounds that go on to help are made for a third of the time only that the target's
// create can stay parked.
func TestAnArmedPodDoesNotWaitUntilItsTargetIsGivenBack(t *testing.T) {
	for onStall, want := range map[v1alpha1.OnStallPolicy]v1alpha1.MigrationPhase{
		v1alpha1.OnStallAbort:       v1alpha1.PhaseFailed,
		v1alpha1.OnStallStopAndCopy: v1alpha1.PhaseSucceeded,
	} {
		t.Run(string(onStall), func(t *testing.T) {
			w := startWriterLeaving(t, []int64{8, 800, 680, 580, 490}, 900)
			m := w.migrate(func(m *v1alpha1.Migration) {
				m.Spec.PreCopy.OnStall = onStall
				m.Spec.PreCopy.MaxRounds = ptr.To(int32(16))
				m.Spec.PreCopy.TargetDowntime = &metav1.Duration{Duration: 3 * time.Second}
			})
			w.awaitPhase(m, want)
			// Two, or three when the source is armed a round later.
			if n := *m.Status.Source.Round; n != 2 && n != 3 {
				t.Errorf("%d rounds%s", n, describe(m))
			}
			if f := m.Status.Failure; want == v1alpha1.PhaseFailed && (f == nil || f.Reason != v1alpha1.ReasonStalled) {
				t.Errorf("failure %+v", f)
			}
		})
	}
}

func TestCancelWhileWaitingForAPause(t *testing.T) {
	for _, by := range []string{"annotation", "deletion"} {
		t.Run(by, func(t *testing.T) {
			w := startWriter(t, 8, 256, 64, 64)
			w.lastStep = 6 // then it waits for as long as it takes
			m := w.migrate()
			w.await(m, "it waits", w.counted)
			w.cancel(m, by)
			if by == "annotation" {
				w.awaitPhase(m, v1alpha1.PhaseCancelled)
			} else {
				w.eventually("the Migration is gone", func() bool { return !w.get(m) }, m)
			}
			w.staysOnSource(w.pod, m)
			for _, method := range w.node("n1").fake.Methods() {
				if method == "Freeze" || method == "Isolate" {
					t.Errorf("a pod that was waited for was touched: %s", method)
				}
			}
		})
	}
}
