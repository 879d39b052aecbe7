// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"godwit.dev/godwit/api/v1alpha1"
)

// simSet is a StatefulSet that wants one pod. Before the commit world.target is the
// placeholder; afterwards it is the pod of the name.
type simSet struct {
	// bare: there is no StatefulSet, and the manager makes the pod again.
	bare        bool
	placeholder simPod
	// usurper: a pod of the name that nobody has made the target; it starts afresh.
	usurper bool
	// unsettled: it would not make a pod now.
	unsettled bool
	// givenUp: a person has said that the pod may start afresh.
	givenUp bool
}

// successor says whether world.target has the name.
func (w *world) successor() bool {
	return w.set.placeholder.uid != "" && w.set.placeholder.uid != w.target.uid && w.target.exists
}

// refuses says whether the node creates no container of what keeps a place.
func (s *simSet) refuses(w *world) bool {
	p := w.latest().Status.Placeholder
	return p != nil && p.PodUID == w.target.uid && w.latest().Status.Handover != nil
}

// stuck: nothing goes on by itself.
func (s *simSet) stuck(w *world) bool {
	m := w.latest()
	return m.Status.Phase == v1alpha1.PhaseReplacing && (w.executed || m.Status.Target.TreeGoneAt != nil)
}

// setActs is one look of the StatefulSet's controller.
func (w *world) setActs(faults bool) {
	s := w.set
	s.unsettled = faults && !s.bare && w.pick(12) == 0
	m := w.latest()
	if faults && w.successor() && !w.targetMayRun() && w.pick(20) == 0 {
		w.log("a person deletes the pod that was made again")
		w.target.deleting = true
	}
	if p := m.Status.Placeholder; faults && p != nil && w.pick(10) == 0 && (handover(m) == v1alpha1.HandoverCommitted || w.pick(20) == 0) {
		w.log("a person deletes the placeholder")
		if w.target.exists && w.target.uid == p.PodUID {
			w.target.deleting = true
		} else if s.placeholder.exists {
			s.placeholder.deleting = true
		}
	}
	switch {
	case s.usurper && faults && w.pick(2) == 0:
		w.log("a person deletes what was started afresh")
		s.usurper = false
		return
	case w.source.exists, s.usurper, s.unsettled, w.successor():
		return
	case s.bare:
		if m := w.latest(); faults && w.pick(6) == 0 && m.Status.Phase == v1alpha1.PhaseReplacing && w.deciders.noPolicy {
			w.log("a person makes a pod of the name")
			s.usurper = true
		}
		return
	}
	pod := simReplica(nil)
	pod.OwnerReferences[0].Kind, pod.Name = KindStatefulSet, m.Spec.PodName
	o := SteerObservation{Migration: m, Pod: pod}
	if p := m.Status.Placeholder; p != nil && (w.target.exists && w.target.uid == p.PodUID || s.placeholder.uid == p.PodUID) {
		o.Target = &corev1.Pod{}
	}
	verdict, why := w.deciders.steer(o)
	if faults && w.pick(6) == 0 {
		verdict, why = SteerPass, "the webhook is not reached"
	}
	kept := (m.Status.Phase == v1alpha1.PhaseSwitchingOver || m.Status.Phase == v1alpha1.PhaseReplacing) && handover(m) != v1alpha1.HandoverAborted
	if verdict == SteerPass && kept && !w.deciders.noPolicy {
		verdict, why = SteerHold, "the policy"
	}
	w.log("the set makes a pod: %s %s", verdict, why)
	switch verdict {
	case SteerPass:
		s.usurper = true
	case SteerTake:
		w.made()
	}
}

// made: the pod of the name is there again, and is the target.
func (w *world) made() {
	s, p := w.set, w.latest().Status.Placeholder
	if w.targetMayRun() {
		w.violated("the pod is made again while the one before may run")
	}
	if w.target.exists && w.target.uid == p.PodUID {
		s.placeholder = w.target
	} else if s.placeholder.uid == "" {
		s.placeholder = simPod{uid: p.PodUID} // it was removed
	}
	w.newTarget()
	w.gate, w.gateOpened, w.parked = false, false, false
	if w.tree == allCleaned {
		w.tree = noRestore
	}
}

// makeAgain is what the manager does for a pod of no controller, having looked at the
// Migration past its cache. Of what has gone it makes nothing, and the name is taken once.
func (w *world) makeAgain() {
	m := w.latest()
	p := m.Status.Placeholder
	there := w.target.exists && w.target.uid == p.PodUID || w.set.placeholder.exists
	if (MayFollow(m) || w.deciders.followsBlindly) && there && !w.source.exists && !w.set.usurper && !w.successor() {
		w.made()
	}
}

func (w *world) checkSet() {
	m := w.latest()
	if w.set.usurper && handover(m) == v1alpha1.HandoverCommitted && !Finished(m.Status.Phase) && !w.set.givenUp && !w.sourceDeleted {
		w.violated("the pod was started afresh")
	}
	if p := m.Status.Placeholder; p != nil && p.PodUID == w.target.uid && w.tree != noRestore && w.target.exists {
		w.violated("the placeholder is restored into")
	}
	if w.targetMayRun() && (w.source.exists || w.sourceTasks == running || w.sourceTasks == frozen) && !w.sourceLost {
		w.violated("restored while the source has its name")
	}
}

// observeSet is what the controller sees of a pod that keeps its name.
func (w *world) observeSet(m *v1alpha1.Migration, o *Observation) {
	if w.set == nil {
		return
	}
	if !w.set.bare {
		o.Owner = OwnerFacts{Kind: KindStatefulSet, Name: "owner"}
	}
	if w.set.unsettled {
		o.Owner.Unsettled = "it is being scaled"
	}
	if handover(m) != v1alpha1.HandoverCommitted || m.Status.Phase == v1alpha1.PhaseSwitchingOver {
		return
	}
	switch p := w.set.placeholder; {
	case p.exists:
		o.Placeholder = p.facts("", "n2")
	case w.target.exists && w.target.uid == m.Status.Placeholder.PodUID:
		o.Placeholder = w.target.facts("", "n2")
	}
	recorded := recordedTarget(m)
	switch {
	case recorded != m.Status.Placeholder.PodUID && w.target.exists && w.target.uid == recorded:
		o.Target = w.target.facts("", "n2")
	case (MayFollow(m) || w.deciders.followsBlindly) && w.successor():
		o.Target = w.target.facts("", "n2")
	default:
		o.Target = PodFacts{}
	}
	o.Usurped = w.set.usurper
}

// projectSet is what the controller stores of it, having read m.
func (w *world) projectSet(s *v1alpha1.MigrationStatus, m *v1alpha1.Migration, o Observation) {
	switch {
	case w.set == nil:
	case handover(m) == v1alpha1.HandoverCommitted && m.Status.Phase != v1alpha1.PhaseSwitchingOver:
		if o.Target.Exists && s.Target.PodUID != o.Target.UID {
			s.Target.PodUID, s.Target.StartedAt = o.Target.UID, nil
		}
		if o.Target.Started && s.Target.StartedAt == nil {
			s.Target.StartedAt = &metav1.MicroTime{Time: w.now}
		}
	default:
		s.Handoff = v1alpha1.HandoffSameName
		if !w.set.bare {
			s.Owner = &v1alpha1.OwnerStatus{Kind: KindStatefulSet, Name: "owner", UID: "owner", State: v1alpha1.OwnerAttached}
		}
		if s.Target != nil && s.Target.PodUID != "" && s.Placeholder == nil {
			s.Placeholder = &v1alpha1.PodRef{PodUID: s.Target.PodUID}
		}
	}
}

// observeSetTarget is what the target's agent sees more of it.
func (w *world) observeSetTarget(m *v1alpha1.Migration, o *TargetObservation) {
	if w.set == nil {
		return
	}
	o.SameName, o.Placeholder = SameName(m), IsPlaceholder(m)
	o.Rebooted = o.Rebooted && m.Status.Target.RestoreStartedAt != nil
	if m.Status.Target.PodUID != w.target.uid {
		// The node shows nothing of the other pod.
		o.Restored, o.RestoreBegun, o.Restoring, o.StandStill, o.Lost, o.TreeGone = false, false, false, false, false, true
	}
}

// restoreSteps: that the restore begins is published, and what it is restored into is
// looked at past the cache, before it does.
func (w *world) restoreSteps(a *actor, pod types.UID) []func() {
	if !w.parked {
		return nil
	}
	return []func(){func() {
		w.write(-1, func(s *v1alpha1.MigrationStatus) {
			if s.Target.RestoreStartedAt == nil {
				s.Target.State, s.Target.BootID = v1alpha1.TargetRestoring, w.bootID()
				s.Target.RestoreStartedAt = &metav1.MicroTime{Time: w.now}
			}
		})
		a.wrote(w)
	}, func() {
		live := w.latest().Status
		if live.Phase == v1alpha1.PhaseReplacing && live.Target.PodUID == pod && pod == w.target.uid && live.Target.RestoreStartedAt != nil {
			w.startRestore()
		}
	}}
}

// retrySteps forget a restore that has failed and left nothing.
func (w *world) retrySteps(a *actor) []func() {
	return []func(){func() {
		if w.targetMayRun() || w.tree == died {
			w.violated("a restore is forgotten, and it is %s", w.tree)
			return
		}
		w.tree, w.still = noRestore, 0
		w.write(-1, func(s *v1alpha1.MigrationStatus) {
			s.Target.FailedRestores++
			s.Target.State, s.Target.BootID, s.Target.RestoreStartedAt = v1alpha1.TargetReleased, "", nil
		})
		a.wrote(w)
	}}
}

// keeping is a choice of a pod that keeps its name, of no controller if bare, and else
// pick's.
func keeping(bare bool, pick func(n int) int) func(n int) int {
	calls := 0
	return func(n int) int {
		calls++
		switch { // see newWorld
		case calls == 2, calls == 3 && !bare:
			return 1
		case calls == 3:
			return 0
		}
		return pick(n)
	}
}

func TestPodsThatKeepTheirNames(t *testing.T) {
	seeds := uint64(600)
	if testing.Short() {
		seeds = 200
	}
	for _, bare := range []bool{false, true} {
		t.Run(map[bool]string{false: "of a StatefulSet", true: "of no controller"}[bare], func(t *testing.T) {
			ends := map[v1alpha1.MigrationPhase]int{}
			for seed := range seeds {
				violations, trace, end := simulate(keeping(bare, seeded(seed)), realDeciders, int(seed%7)*100)
				if len(violations) > 0 {
					t.Fatalf("seed %d: %v after\n%s", seed, violations, strings.Join(trace, "\n"))
				}
				ends[end]++
			}
			for _, phase := range []v1alpha1.MigrationPhase{v1alpha1.PhaseSucceeded, v1alpha1.PhaseFailed} {
				if ends[phase] < 20 {
					t.Errorf("only %d of %d runs ended in %s: %v", ends[phase], seeds, phase, ends)
				}
			}
		})
	}
}

func TestSimulationNoticesBrokenRulesOfNames(t *testing.T) {
	for name, broken := range map[string]func(*deciders){
		"the API server does not keep the name": func(d *deciders) { d.noPolicy = true },
		"the webhook knows nothing of names": func(d *deciders) {
			d.steer = func(SteerObservation) (SteerVerdict, string) { return SteerPass, "" }
		},
		"the images are removed with the source": func(d *deciders) {
			d.source = func(o SourceObservation) SourceAction {
				if o.Phase == v1alpha1.PhaseReplacing && o.Report.State == v1alpha1.SourceKilled {
					return SourceClean
				}
				return DecideSource(o)
			}
		},
		"the placeholder is restored into": func(d *deciders) {
			d.target = func(o TargetObservation) TargetAction {
				o.SameName, o.Placeholder = false, false
				return DecideTarget(o)
			}
		},
		"a commit is taken back after the source was given up": func(d *deciders) {
			d.target = func(o TargetObservation) TargetAction {
				if a := DecideTarget(o); a != TargetRetry {
					return a
				}
				return TargetTakeBack
			}
		},
		"what has run is restored again": func(d *deciders) {
			d.target = func(o TargetObservation) TargetAction {
				if o.SameName && o.Lost {
					return TargetRetry
				}
				return DecideTarget(o)
			}
		},
		"another pod takes the place of one that was restored into": func(d *deciders) {
			d.followsBlindly = true
			d.steer = func(o SteerObservation) (SteerVerdict, string) {
				v, why := Steer(o)
				if v == SteerHold && o.Migration.Status.Phase == v1alpha1.PhaseReplacing {
					return SteerTake, ""
				}
				return v, why
			}
		},
		"the source is removed before nothing is taken back any more": func(d *deciders) {
			d.controller = func(o Observation) Decision {
				if handover(o.Migration) == v1alpha1.HandoverCommitted && o.Migration.Status.Phase == v1alpha1.PhaseSwitchingOver && o.Source.Exists {
					if !o.Source.Deleting {
						return Decision{Action: DeleteSource}
					}
					o.Source.Deleting = false
				}
				return Decide(o)
			}
		},
		"nothing holds the placeholder": func(d *deciders) { d.unheld = true },
		"the placeholder is removed before the pod is made again": func(d *deciders) {
			d.controller = func(o Observation) Decision {
				if v := Decide(o); v.Action != MakeAgain {
					return v
				}
				return Decision{Action: DropPlaceholder}
			}
		},
		"the placeholder is dropped when the pod is there again": func(d *deciders) {
			d.controller = func(o Observation) Decision {
				if v := Decide(o); v.Action != DeletePlaceholder {
					return v
				}
				return Decision{Action: DropPlaceholder}
			}
		},
		"nobody makes the pod again": func(d *deciders) {
			d.controller = func(o Observation) Decision {
				if v := Decide(o); v.Action != MakeAgain {
					return v
				}
				return Decision{Action: Wait}
			}
		},
		"the source waits for the target": func(d *deciders) {
			d.controller = func(o Observation) Decision {
				if v := Decide(o); v.Action != DeleteSource {
					return v
				}
				return Decision{Action: Wait}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := realDeciders
			broken(&d)
			for seed := range uint64(10000) {
				if violations, _, _ := simulate(keeping(seed%2 == 0, seeded(seed)), d, 300+int(seed%4)*100); len(violations) > 0 {
					return
				}
			}
			t.Error("not noticed in 10000 runs")
		})
	}
}
