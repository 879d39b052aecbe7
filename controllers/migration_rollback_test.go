// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/migration"
)

// stage is a point at which a migration can be interrupted.
type stage struct {
	name string
	// reach plays the migration up to there.
	reach func(f *fixture, name string) *v1alpha1.Migration
	// report is the source agent's at that point.
	report v1alpha1.SourceReport
	// touched: there is something to roll back.
	touched bool
}

var uncommitted = []stage{
	{"Preparing", func(f *fixture, name string) *v1alpha1.Migration { return f.awaitPhase(name, v1alpha1.PhasePreparing) }, v1alpha1.SourceReport{}, false},
	{"PreCopying", (*fixture).toPreCopying, checkedReport(), true},
	{"SwitchingOver", (*fixture).toSwitchingOver, roundsReport(v1alpha1.SourceConverged, 2), true},
	{"Dumped", func(f *fixture, name string) *v1alpha1.Migration {
		m := f.toSwitchingOver(name)
		f.sourceReports(name, dumpedReport(2))
		return m
	}, dumpedReport(2), true},
}

func TestCancelInEveryPhase(t *testing.T) {
	for _, s := range uncommitted {
		t.Run(s.name, func(t *testing.T) {
			f := newFixture(t)
			source := f.runningPod("redis")
			f.create("m", v1alpha1.MigrationSpec{PodName: "redis"})
			s.reach(f, "m")
			f.cancel("m")
			if s.touched {
				f.rollsBack("m", s.report)
			}
			m := f.awaitPhase("m", v1alpha1.PhaseCancelled)
			if m.Status.Failure.Reason != v1alpha1.ReasonCancelled {
				t.Errorf("failure = %+v", m.Status.Failure)
			}
			if !meta.IsStatusConditionTrue(m.Status.Conditions, v1alpha1.ConditionComplete) || meta.IsStatusConditionTrue(m.Status.Conditions, v1alpha1.ConditionHandedOver) {
				t.Errorf("conditions = %+v", m.Status.Conditions)
			}
			f.onlyPod(source)
		})
	}
}

func TestDeletingCancelsInEveryPhase(t *testing.T) {
	for _, s := range uncommitted {
		t.Run(s.name, func(t *testing.T) {
			f := newFixture(t)
			source := f.runningPod("redis")
			m := f.create("m", v1alpha1.MigrationSpec{PodName: "redis"})
			s.reach(f, "m")
			f.must(testClient.Delete(f.ctx, m), "delete")
			if s.touched {
				f.rollsBack("m", s.report)
			}
			f.until("the Migration to be gone", func() bool { return f.gone(m) }, func() string { return string(m.Status.Phase) })
			f.onlyPod(source)
		})
	}
}

// onlyPod checks that the source goes on and nothing else is left.
func (f *fixture) onlyPod(source *corev1.Pod) {
	f.Helper()
	f.sourceGoesOn(source)
	var pods corev1.PodList
	f.must(testClient.List(f.ctx, &pods, client.InNamespace(f.ns)), "list pods")
	if len(pods.Items) != 1 {
		f.Errorf("%d pods are left", len(pods.Items))
	}
}

// After the commit the target owns the pod: it is too late.
func TestCommitCannotBeCancelled(t *testing.T) {
	for name, interrupt := range map[string]func(f *fixture){
		"cancel": func(f *fixture) { f.cancel("m") },
		"delete": func(f *fixture) { f.must(testClient.Delete(f.ctx, f.get("m")), "delete") },
		"timeout": func(f *fixture) {
			f.clock.forward(time.Hour)
			f.touch("m")
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.runningPod("redis")
			f.create("m", v1alpha1.MigrationSpec{PodName: "redis"})
			m := f.toCommitted("m")
			interrupt(f)
			f.targetReports("m", restoredReport(2))
			f.kubeletRuns(f.pod(m.Status.Target.PodName))
			m = f.awaitPhase("m", v1alpha1.PhaseCompleting)
			r := dumpedReport(2)
			r.State = v1alpha1.SourceCleaned
			f.until("the source pod's deletion", func() bool { return f.pod("redis").DeletionTimestamp != nil }, func() string { return "" })
			f.sourceReports("m", r)
			f.kubeletRemoves(m.Status.Source.PodRef)
			f.until("success", func() bool {
				got := &v1alpha1.Migration{ObjectMeta: metav1.ObjectMeta{Namespace: f.ns, Name: "m"}}
				return f.gone(got) || got.Status.Phase == v1alpha1.PhaseSucceeded
			}, func() string { return "" })
			if got := f.pod(m.Status.Target.PodName); got.DeletionTimestamp != nil {
				t.Error("the target pod is being deleted")
			}
		})
	}
}

// The register is the arbiter: the commit arrives after the controller has
// decided to abort, and before it writes that down.
func TestCommitWinsAgainstALateAbort(t *testing.T) {
	f := newNamespace(t)
	commit := sync.OnceFunc(func() { f.must(f.commit("m"), "commit") })
	aborts := 0
	f.beforeStatus = func(m *v1alpha1.Migration) {
		if m.Status.Handover != nil && m.Status.Handover.State == v1alpha1.HandoverAborted {
			aborts++
			commit()
		}
	}
	f.start()
	f.runningPod("redis")
	f.create("m", v1alpha1.MigrationSpec{PodName: "redis"})
	f.toSwitchingOver("m")
	f.sourceReports("m", dumpedReport(2))
	f.cancel("m")
	m := f.await("m", "a commit", func(m *v1alpha1.Migration) bool { return m.Status.Handover != nil })
	f.targetReports("m", restoredReport(2))
	f.kubeletRuns(f.pod(m.Status.Target.PodName))
	m = f.awaitPhase("m", v1alpha1.PhaseCompleting)
	if m.Status.Handover.State != v1alpha1.HandoverCommitted || m.Status.Failure != nil {
		t.Errorf("status = %+v", m.Status)
	}
	if aborts != 1 {
		t.Errorf("the controller tried to abort %d times", aborts)
	}
}

func TestTimeout(t *testing.T) {
	f := newFixture(t)
	source := f.runningPod("redis")
	f.create("m", v1alpha1.MigrationSpec{PodName: "redis", Timeout: &metav1.Duration{Duration: time.Hour}})
	f.toSwitchingOver("m")
	f.clock.forward(61 * time.Minute)
	f.touch("m")
	f.rollsBack("m", roundsReport(v1alpha1.SourceConverged, 2))
	if m := f.awaitPhase("m", v1alpha1.PhaseFailed); m.Status.Failure.Reason != v1alpha1.ReasonTimeout {
		t.Errorf("failure = %+v", m.Status.Failure)
	}
	f.onlyPod(source)
}

// Nothing happens any more, and yet the deadline is noticed.
func TestTimeoutNeedsNoEvent(t *testing.T) {
	f := newFixture(t)
	f.runningPod("redis")
	f.create("m", v1alpha1.MigrationSpec{PodName: "redis", Timeout: &metav1.Duration{Duration: 2 * time.Second}})
	if m := f.awaitPhase("m", v1alpha1.PhaseFailed); m.Status.Failure.Reason != v1alpha1.ReasonTimeout {
		t.Errorf("failure = %+v", m.Status.Failure)
	}
}

func TestInterruptionsRollBack(t *testing.T) {
	for name, tc := range map[string]struct {
		interrupt func(f *fixture, m *v1alpha1.Migration)
		reason    string
	}{
		"the target pod vanishes": {func(f *fixture, m *v1alpha1.Migration) { f.kubeletRemoves(m.Status.Target.PodRef) }, v1alpha1.ReasonTargetPodGone},
		"the target pod is being deleted": {func(f *fixture, m *v1alpha1.Migration) {
			f.must(testClient.Delete(f.ctx, f.pod(m.Status.Target.PodName)), "delete target")
		}, v1alpha1.ReasonTargetPodGone},
		"the target pod fails": {func(f *fixture, m *v1alpha1.Migration) {
			f.podStatus(f.pod(m.Status.Target.PodName), func(s *corev1.PodStatus) { s.Phase = corev1.PodFailed })
		}, v1alpha1.ReasonTargetPodFailed},
		"the target agent gives up": {func(f *fixture, _ *v1alpha1.Migration) {
			r := parkedReport(2)
			r.State, r.Failure = v1alpha1.TargetFailed, &v1alpha1.Failure{Reason: v1alpha1.ReasonParkTimeout, Message: "parked too long"}
			f.targetReports("m", r)
		}, v1alpha1.ReasonParkTimeout},
		"the source agent gives up": {func(f *fixture, _ *v1alpha1.Migration) {
			r := roundsReport(v1alpha1.SourceFrozen, 2)
			r.Failure = &v1alpha1.Failure{Reason: v1alpha1.ReasonFinalDumpFailed, Message: "criu failed"}
			f.sourceReports("m", r)
		}, v1alpha1.ReasonFinalDumpFailed},
		"the source agent aborts": {func(f *fixture, _ *v1alpha1.Migration) {
			f.must(f.writeRegister("m", nil, v1alpha1.Handover{State: v1alpha1.HandoverAborted, By: "source/n1", Reason: v1alpha1.ReasonSwitchoverTimeout, Message: "frozen too long"}), "abort")
		}, v1alpha1.ReasonSwitchoverTimeout},
		"pre-copy stalls": {func(f *fixture, _ *v1alpha1.Migration) { f.sourceReports("m", roundsReport(v1alpha1.SourceStalled, 2)) }, v1alpha1.ReasonStalled},
		"the restore fails": {func(f *fixture, _ *v1alpha1.Migration) {
			f.must(f.commit("m"), "commit")
			m := f.get("m")
			f.must(f.writeRegister("m", m.Status.Handover, v1alpha1.Handover{State: v1alpha1.HandoverAborted, By: "target/n2", Reason: v1alpha1.ReasonRestoreFailed, Message: "criu failed"}), "take back")
		}, v1alpha1.ReasonRestoreFailed},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			source := f.runningPod("redis")
			f.create("m", v1alpha1.MigrationSpec{PodName: "redis"})
			m := f.toSwitchingOver("m")
			tc.interrupt(f, m)
			f.rollsBack("m", roundsReport(v1alpha1.SourceResumed, 2))
			m = f.awaitPhase("m", v1alpha1.PhaseFailed)
			if m.Status.Failure == nil || m.Status.Failure.Reason != tc.reason {
				t.Errorf("failure = %+v, want %s", m.Status.Failure, tc.reason)
			}
			f.onlyPod(source)
		})
	}
}

func TestSourcePodDeletedByItsUser(t *testing.T) {
	f := newFixture(t)
	source := f.runningPod("redis")
	f.create("m", v1alpha1.MigrationSpec{PodName: "redis"})
	f.toPreCopying("m")
	f.kubeletRemoves(refOf(source))
	f.runningPod("redis") // a namesake is not the pod
	f.rollsBack("m", checkedReport())
	if m := f.awaitPhase("m", v1alpha1.PhaseFailed); m.Status.Failure.Reason != v1alpha1.ReasonSourcePodGone {
		t.Errorf("failure = %+v", m.Status.Failure)
	}
}

func TestForeignPodWithTheTargetsName(t *testing.T) {
	f := newFixture(t)
	f.runningPod("redis")
	m := f.create("m", v1alpha1.MigrationSpec{PodName: "redis"})
	f.awaitPhase("m", v1alpha1.PhasePreparing)
	f.stop()
	foreign := f.runningPod(migration.TargetPodName(m))
	m = f.get("m")
	m.Status.Phase = v1alpha1.PhasePreCopying // the preflight had passed
	f.must(testClient.Status().Update(f.ctx, m), "status")
	f.start()
	f.rollsBack("m", checkedReport())
	if m := f.awaitPhase("m", v1alpha1.PhaseFailed); m.Status.Failure.Reason != v1alpha1.ReasonTargetPodExists || m.Status.Target != nil {
		t.Errorf("status = %+v", m.Status)
	}
	f.sourceGoesOn(foreign)
}
