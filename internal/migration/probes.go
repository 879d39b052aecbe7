// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"godwit.dev/godwit/api/v1alpha1"
)

const (
	// resumeReserve of a probe's patience is kept for letting the source go on:
	// a register write, a watch event on the other node, the thaw, and, before
	// that, the end of a restore that ran into its limit. Each is a request or a
	// few system calls; a slow API server needs a second for one of them.
	resumeReserve = 3 * time.Second
	// MinRestore is the shortest time that a restore is tried for. Starting runc
	// and CRIU and putting an empty process back takes a few hundred
	// milliseconds on ordinary hardware and more than a second on a loaded node.
	MinRestore = time.Second
	// ClockMargin is how far apart two synchronized nodes' clocks may be.
	ClockMargin = 500 * time.Millisecond
)

// ProbeBudget is how long the pod can stay frozen before kubelet takes it for
// dead and restarts a container: the shortest patience among the liveness and
// startup probes. nil when there is none.
//
// What kubelet's prober does (pkg/kubelet/prober, v1.37) makes the patience
// (failureThreshold - 1) × periodSeconds:
//
//   - A worker probes at every tick of its period, and failureThreshold failures
//     in a row end the container. The first may come with the freeze itself: a
//     tick at that moment, or a probe in flight whose timeout is about to pass.
//   - Every later tick comes a whole period later, and a probe that finds the
//     pod cut off runs into its timeout, so it ends no earlier after its tick
//     than the one in flight did: between the first failure and the last
//     lie at least failureThreshold - 1 periods.
//   - A frozen process answers nothing. An exec probe that was running is frozen
//     with the container and times out, which is a failure; runc refuses to exec
//     in a paused container, which is a prober error, and those are thrown away.
//     Other runtimes may count that as a failure, so exec probes are not spared.
//   - The startup probe of a container that has started is not run any more. But
//     kubelet keeps its results in memory, and one that restarts may begin it
//     anew (feature gate ChangeContainerStatusOnKubeletRestart, and before it).
//   - Readiness probes end nothing.
//   - The grace period adds nothing: SIGTERM stays queued at a frozen task and
//     would be its first experience after a thaw.
//
// On the target the containers of a pod with several stand still after their restore,
// until the last one is there. Kubelet probes them meanwhile, first with the startup
// probe, and the same holds: they were restored after the source was frozen, and the
// last restore ends, or is given up, before the shortest patience does (RestoreLimit).
//
// A probe that had begun to fail before the freeze has less patience, which
// nobody but kubelet knows; the guard against new containers is for that.
func ProbeBudget(pod *corev1.Pod) *v1alpha1.ProbeBudget {
	var shortest *v1alpha1.ProbeBudget
	for _, c := range Containers(pod) {
		for _, p := range []struct {
			name string
			*corev1.Probe
		}{{"liveness", c.LivenessProbe}, {"startup", c.StartupProbe}} {
			if p.Probe == nil {
				continue
			}
			if b := patience(p.Probe); shortest == nil || b < shortest.Patience.Duration {
				shortest = &v1alpha1.ProbeBudget{
					Container: c.Name, Probe: p.name,
					Patience:   metav1.Duration{Duration: b},
					Switchover: metav1.Duration{Duration: max(0, b-resumeReserve)},
				}
			}
		}
	}
	return shortest
}

func patience(p *corev1.Probe) time.Duration {
	// The API server has put in the defaults; with a zero one failure would be enough.
	return time.Duration(max(p.FailureThreshold, 1)-1) * time.Duration(max(p.PeriodSeconds, 1)) * time.Second
}

// CheckProbeBudget refuses a pod whose probes cannot wait for any switchover.
// fixed is what a switchover costs apart from memory, as far as it is known.
func CheckProbeBudget(pod *corev1.Pod, fixed time.Duration) *v1alpha1.Failure {
	b := ProbeBudget(pod)
	need := max(fixed, MinRestore)
	if b == nil || b.Switchover.Duration >= need {
		return nil
	}
	need += resumeReserve
	p := probeOf(pod, b)
	period := max(p.PeriodSeconds, 1)
	enough := (int64(need)+int64(time.Second)*int64(period)-1)/(int64(time.Second)*int64(period)) + 1
	return &v1alpha1.Failure{
		Reason: v1alpha1.ReasonProbeBudgetTooShort, Container: b.Container,
		Message: fmt.Sprintf("the %s probe of container %q (failureThreshold %d, periodSeconds %d) makes kubelet restart a container that is frozen for %s; moving it needs %s at least: raise failureThreshold to %d or more, or raise periodSeconds",
			b.Probe, b.Container, max(p.FailureThreshold, 1), period, b.Patience.Duration, round(need), enough),
	}
}

func probeOf(pod *corev1.Pod, b *v1alpha1.ProbeBudget) *corev1.Probe {
	for _, c := range Containers(pod) {
		if c.Name == b.Container {
			if b.Probe == "startup" {
				return c.StartupProbe
			}
			return c.LivenessProbe
		}
	}
	return &corev1.Probe{}
}

// checkStarted refuses a container whose startup probe has not succeeded: each
// failure of it counts since the container's start, so how much patience is left
// cannot be known.
func checkStarted(r *refusals, pod *corev1.Pod) {
	for _, c := range Containers(pod) {
		if c.StartupProbe == nil {
			continue
		}
		if s := ContainerStatus(pod, c.Name); s == nil || s.Started == nil || !*s.Started {
			r.addFor(c.Name, v1alpha1.ReasonNotStarted, "the startup probe of container %q has not succeeded yet; wait until it has", c.Name)
		}
	}
}

// SwitchoverLimit is how long the source may be frozen without a commit: the
// spec's timeout, or what the probes leave if that is less. byProbes says which.
func SwitchoverLimit(timeout time.Duration, b *v1alpha1.ProbeBudget) (limit time.Duration, byProbes bool) {
	if b != nil && b.Switchover.Duration < timeout {
		return b.Switchover.Duration, true
	}
	return timeout, false
}

// FreezeWitness is what the target knows of the beginning of the freeze.
type FreezeWitness struct {
	// FrozenAt as the source reports it, by the source's clock.
	FrozenAt time.Time
	// NotBefore is a moment of the target's clock at which the pod was certainly
	// not frozen: before the API server answered a read with a phase that comes
	// before the switchover. Zero when there was none.
	NotBefore time.Time
	// SeenAt is when the target first saw that the pod was frozen, by its clock.
	SeenAt time.Time
}

// FrozenFor bounds from above for how long the source has been frozen, at now of
// the target's clock. The freeze lies between NotBefore and SeenAt. A FrozenAt
// in between is believed, plus ClockMargin; one outside shows that the clocks
// disagree, and then the freeze is taken to be as old as it can be.
func (w FreezeWitness) FrozenFor(now time.Time) time.Duration {
	begun := w.FrozenAt.Add(-ClockMargin)
	switch {
	case w.NotBefore.IsZero():
		// An agent that began after the freeze has nothing better.
		if w.FrozenAt.After(w.SeenAt) {
			begun = w.SeenAt.Add(-ClockMargin)
		}
	case begun.Before(w.NotBefore), w.FrozenAt.After(w.SeenAt):
		begun = w.NotBefore
	}
	return max(0, now.Sub(begun))
}

// RestoreLimit is how long a restore may take that begins when the source has
// been frozen for that long: at most longest, and no longer than the probes
// leave. ok is false when that is too little to try.
func RestoreLimit(longest, frozenFor time.Duration, b *v1alpha1.ProbeBudget) (limit time.Duration, ok bool) {
	if b == nil {
		return longest, true
	}
	limit = min(longest, b.Switchover.Duration-frozenFor)
	return limit, limit >= min(longest, MinRestore)
}
