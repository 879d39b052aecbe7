// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"godwit.dev/godwit/api/v1alpha1"
)

func probe(period, failures int32) *corev1.Probe {
	return &corev1.Probe{PeriodSeconds: period, FailureThreshold: failures}
}

func probed(liveness, startup *corev1.Probe) *corev1.Pod {
	return bare(func(p *corev1.Pod) {
		p.Spec.Containers[0].LivenessProbe, p.Spec.Containers[0].StartupProbe = liveness, startup
		p.Status.ContainerStatuses[0].Started = ptr(true)
	})
}

func TestProbeBudget(t *testing.T) {
	for name, tc := range map[string]struct {
		liveness, startup    *corev1.Probe
		patience, switchover time.Duration
		which                string
	}{
		"kubernetes' defaults":      {probe(10, 3), nil, 20 * time.Second, 17 * time.Second, "liveness"},
		"the shorter of two":        {probe(10, 3), probe(2, 5), 8 * time.Second, 5 * time.Second, "startup"},
		"one failure is enough":     {probe(60, 1), nil, 0, 0, "liveness"},
		"without the API's default": {probe(0, 0), nil, 0, 0, "liveness"},
		"less than the reserve":     {probe(1, 3), nil, 2 * time.Second, 0, "liveness"},
	} {
		t.Run(name, func(t *testing.T) {
			b := ProbeBudget(probed(tc.liveness, tc.startup))
			if b == nil || b.Patience.Duration != tc.patience || b.Switchover.Duration != tc.switchover || b.Probe != tc.which || b.Container != "app" {
				t.Errorf("ProbeBudget = %+v, want %s of %s by the %s probe", b, tc.switchover, tc.patience, tc.which)
			}
		})
	}
	if b := ProbeBudget(bare(func(p *corev1.Pod) { p.Spec.Containers[0].ReadinessProbe = probe(1, 1) })); b != nil {
		t.Errorf("a readiness probe limits the freeze: %+v", b)
	}
}

// The remedy in a refusal is one: with the threshold it names the pod passes, and
// with one less it does not.
func TestProbeBudgetTooShort(t *testing.T) {
	for _, tc := range []struct {
		period, failures int32
		fixed            time.Duration
	}{{1, 3, 0}, {1, 1, 0}, {2, 2, 0}, {10, 1, 0}, {1, 5, 4 * time.Second}, {3, 2, 4100 * time.Millisecond}} {
		pod := probed(probe(tc.period, tc.failures), nil)
		f := CheckProbeBudget(pod, tc.fixed)
		if f == nil || f.Reason != v1alpha1.ReasonProbeBudgetTooShort || f.Container != "app" {
			t.Errorf("%+v: %+v", tc, f)
			continue
		}
		enough := tc.failures
		for CheckProbeBudget(probed(probe(tc.period, enough), nil), tc.fixed) != nil {
			enough++
		}
		if want := "raise failureThreshold to " + strconv.Itoa(int(enough)) + " or more"; !strings.Contains(f.Message, want) {
			t.Errorf("%+v: %q does not say %q", tc, f.Message, want)
		}
	}
	if f := CheckProbeBudget(probed(probe(10, 3), nil), 5*time.Second); f != nil {
		t.Errorf("kubernetes' defaults are refused: %+v", f)
	}
	if f := CheckProbeBudget(bare(), time.Hour); f != nil {
		t.Errorf("a pod without probes is refused: %+v", f)
	}
}

func TestAPodThatHasNotStartedIsRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		startup *corev1.Probe
		started *bool
		refused bool
	}{
		"not yet":            {probe(10, 30), ptr(false), true},
		"not known":          {probe(10, 30), nil, true},
		"started":            {probe(10, 30), ptr(true), false},
		"no startup probe":   {nil, ptr(true), false},
		"old kubelet, no sp": {nil, nil, false},
	} {
		pod := probed(nil, tc.startup)
		pod.Status.ContainerStatuses[0].Started = tc.started
		if got := slices.Contains(reasonsOf(CheckPod(pod)), v1alpha1.ReasonNotStarted); got != tc.refused {
			t.Errorf("%s: refused %t, want %t", name, got, tc.refused)
		}
	}
}

func budgetOf(switchover time.Duration) *v1alpha1.ProbeBudget {
	return &v1alpha1.ProbeBudget{Container: "app", Probe: "liveness",
		Patience: metav1.Duration{Duration: switchover + resumeReserve}, Switchover: metav1.Duration{Duration: switchover}}
}

func TestSwitchoverLimit(t *testing.T) {
	for name, tc := range map[string]struct {
		timeout  time.Duration
		budget   *v1alpha1.ProbeBudget
		want     time.Duration
		byProbes bool
	}{
		"no probes":         {time.Minute, nil, time.Minute, false},
		"probes are less":   {time.Minute, budgetOf(17 * time.Second), 17 * time.Second, true},
		"the spec is less":  {5 * time.Second, budgetOf(17 * time.Second), 5 * time.Second, false},
		"no patience left":  {time.Minute, budgetOf(0), 0, true},
		"both are the same": {17 * time.Second, budgetOf(17 * time.Second), 17 * time.Second, false},
	} {
		if got, by := SwitchoverLimit(tc.timeout, tc.budget); got != tc.want || by != tc.byProbes {
			t.Errorf("%s: %s %t, want %s %t", name, got, by, tc.want, tc.byProbes)
		}
	}
}

// Whatever the source's clock says, the target never takes the freeze for
// younger than it is by more than the margin, as long as it can tell; and two
// clocks that agree cost no more than the margin.
func TestFrozenForIsNeverTooShort(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	at := func(s float64) time.Time { return start.Add(time.Duration(s * float64(time.Second))) }
	const froze, now = 10.0, 14.0
	for _, seen := range []float64{10.1, 11, 13.9} {
		for _, before := range []float64{0, 5, 9.9} {
			for skew := -30.0; skew <= 30; skew += 0.1 {
				w := FreezeWitness{FrozenAt: at(froze + skew), NotBefore: at(before), SeenAt: at(seen)}
				got := w.FrozenFor(at(now))
				undetected := max(0, min(skew, seen-froze)-ClockMargin.Seconds())
				if least := at(now).Sub(at(froze + undetected)); got < least-time.Millisecond {
					t.Fatalf("skew %.1f, seen %.1f, not before %.1f: %s, but frozen for at least %s", skew, seen, before, got, least)
				}
				if most := at(now).Sub(at(before)); got > most {
					t.Fatalf("skew %.1f: %s, more than the %s that are possible", skew, got, most)
				}
			}
		}
	}
	exact := FreezeWitness{FrozenAt: at(froze), NotBefore: at(2), SeenAt: at(11)}
	if got := exact.FrozenFor(at(now)); got != 4*time.Second+ClockMargin {
		t.Errorf("clocks that agree: %s", got)
	}
	late := FreezeWitness{FrozenAt: at(20), SeenAt: at(11)}
	if got := late.FrozenFor(at(now)); got != 3*time.Second+ClockMargin {
		t.Errorf("a freeze in the future, nothing known before: %s", got)
	}
}

func TestRestoreLimit(t *testing.T) {
	const longest = 45 * time.Second
	for name, tc := range map[string]struct {
		frozenFor time.Duration
		budget    *v1alpha1.ProbeBudget
		want      time.Duration
		ok        bool
	}{
		"no probes":        {time.Hour, nil, longest, true},
		"plenty left":      {time.Second, budgetOf(5 * time.Minute), longest, true},
		"what is left":     {5 * time.Second, budgetOf(17 * time.Second), 12 * time.Second, true},
		"just enough":      {16 * time.Second, budgetOf(17 * time.Second), time.Second, true},
		"too little":       {16500 * time.Millisecond, budgetOf(17 * time.Second), 500 * time.Millisecond, false},
		"spent long since": {time.Minute, budgetOf(17 * time.Second), -43 * time.Second, false},
	} {
		if got, ok := RestoreLimit(longest, tc.frozenFor, tc.budget); got != tc.want || ok != tc.ok {
			t.Errorf("%s: %s %t, want %s %t", name, got, ok, tc.want, tc.ok)
		}
	}
}

// A switchover that the probes would not survive is not begun, whatever onStall
// says, and the pre-copy goes on as long as it helps.
func TestConvergeKeepsWithinTheProbeBudget(t *testing.T) {
	within := func(budget time.Duration, p PreCopy) PreCopy {
		p.Budget, p.OnStall = budget, v1alpha1.OnStallStopAndCopy
		return p
	}
	for name, tc := range map[string]struct {
		p       PreCopy
		verdict v1alpha1.ConvergenceVerdict
		reason  string
	}{
		"within both":                      {within(time.Second, preCopy(5*time.Second, sample(100, 50))), v1alpha1.VerdictSwitch, ConvergeWithinTarget},
		"above the budget, but it shrinks": {within(time.Second, preCopy(5*time.Second, sample(400, 600))), v1alpha1.VerdictContinue, ConvergeShrinking},
		"above the budget for good":        {within(time.Second, preCopy(5*time.Second, sample(100, 130), sample(100, 130))), v1alpha1.VerdictStalled, ConvergeAboveBudget},
		"above the target only":            {within(5*time.Second, preCopy(time.Second, sample(100, 130), sample(100, 130))), v1alpha1.VerdictSwitch, ConvergeRateTooHigh},
	} {
		if c := Converge(tc.p); c.Verdict != tc.verdict || c.Reason != tc.reason {
			t.Errorf("%s: %+v, want %s %s", name, c, tc.verdict, tc.reason)
		}
	}
}

func TestAKilledSource(t *testing.T) {
	dumped := v1alpha1.SourceReport{State: v1alpha1.SourceDumped}
	told := v1alpha1.SourceReport{State: v1alpha1.SourceDumped, Failure: &v1alpha1.Failure{Reason: v1alpha1.ReasonSourceKilled}}
	for name, tc := range map[string]struct {
		o    SourceObservation
		want SourceAction
	}{
		"before the commit":        {SourceObservation{Phase: switching, Report: dumped}, SourceAbort},
		"after the commit":         {SourceObservation{Phase: switching, Handover: committed, Report: dumped}, SourceReportKilled},
		"after, already told":      {SourceObservation{Phase: switching, Handover: committed, Report: told}, SourceIdle},
		"the target was confirmed": {SourceObservation{Phase: completing, Handover: committed, Report: dumped, PeersTold: true}, SourceIdle},
		"taken back":               {SourceObservation{Phase: switching, Handover: aborted, Report: told}, SourceResume},
		"not frozen yet":           {SourceObservation{Phase: preCopying, Report: v1alpha1.SourceReport{State: v1alpha1.SourceConverged}}, SourceAwaitArm},
	} {
		tc.o.Killed, tc.o.SwitchoverTimeout, tc.o.DirtyTracking = true, time.Minute, true
		if got := DecideSource(tc.o); got != tc.want {
			t.Errorf("%s: %s, want %s", name, got, tc.want)
		}
	}
}

// A commit that is taken back from under a killed source tells that the process
// is lost.
func TestARollbackSaysThatTheSourceWasKilled(t *testing.T) {
	m := &v1alpha1.Migration{}
	m.Status.Handover = &v1alpha1.Handover{State: v1alpha1.HandoverAborted, Reason: v1alpha1.ReasonRestoreFailed, Message: "criu failed"}
	m.Status.Source = &v1alpha1.SourceStatus{SourceReport: v1alpha1.SourceReport{
		Failure: &v1alpha1.Failure{Reason: v1alpha1.ReasonSourceKilled, Message: "kubelet killed the source"}}}
	for range 2 {
		f := rollbackFailure(m)
		if f.Reason != v1alpha1.ReasonRestoreFailed || f.Message != "criu failed; kubelet killed the source" {
			t.Errorf("failure %+v", f)
		}
		m.Status.Failure = f
	}
}
