// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"godwit.dev/godwit/api/v1alpha1"
)

// actor is the controller or an agent: a process that can crash at any point,
// and keeps nothing but how far it has read.
type actor struct {
	name string
	// seen is the newest version it has read or written: nobody reads
	// backwards.
	seen int
	// plan are the steps it has decided on and not yet made.
	plan []func()
	// look reads the world and returns what to do.
	look func() []func()
}

func (a *actor) step(w *world) {
	if len(a.plan) == 0 {
		a.plan = a.look()
		return
	}
	next := a.plan[0]
	a.plan = a.plan[1:]
	next()
	w.check()
}

func (a *actor) crash() { a.plan = nil }

// read returns a version of the Migration, not older than what was seen.
func (a *actor) read(w *world) (*v1alpha1.Migration, int) {
	newest := len(w.versions) - 1
	if a.seen < newest && w.pick(4) > 0 {
		a.seen += 1 + w.pick(newest-a.seen)
	}
	return w.versions[a.seen], a.seen
}

func (a *actor) wrote(w *world) { a.seen = len(w.versions) - 1 }

func (w *world) controller() *actor {
	a := &actor{name: "controller"}
	a.look = func() []func() {
		m, version := a.read(w)
		if Finished(m.Status.Phase) {
			return nil
		}
		if m.Annotations[v1alpha1.AnnotationResolve] != "" && !Unanswered(m) {
			return []func(){func() {
				if version == len(w.versions)-1 {
					w.annotate(v1alpha1.AnnotationResolve, "")
					a.wrote(w)
				}
			}}
		}
		o := Observation{Now: w.now, Migration: m, Source: w.source.facts("", "n1"), Target: w.target.facts(recordedTarget(m), "n2"), Owner: w.ownerFacts()}
		if handover(m) == v1alpha1.HandoverCommitted {
			o.TargetNode = w.node
		}
		w.observeSet(m, &o)
		d := w.deciders.controller(o)
		if d.Action == Arm {
			d.Action = Advance
		}
		w.log("controller at v%d: %s %s %s", version, d.Action, d.Phase, d.Message)
		var steps []func()
		switch d.Action {
		case ReleaseSource, ReturnSource, SettleSource:
			steps = append(steps, w.ownerStep(d.Action))
		case CreateTarget:
			steps = append(steps, func() {
				live := w.latest()
				if live.Status.Handover == nil && live.Status.Phase == v1alpha1.PhasePreCopying && !w.target.exists {
					w.newTarget()
				}
			})
		case DeleteSource:
			steps = append(steps, func() {
				if handover(w.latest()) == v1alpha1.HandoverCommitted {
					w.source.deleting = true
				}
			})
		case MakeAgain:
			steps = append(steps, w.makeAgain)
		case DeletePlaceholder:
			steps = append(steps, func() { w.set.placeholder.deleting = true })
		case DropPlaceholder:
			steps = append(steps, func() { w.set.placeholder.held, w.set.placeholder.deleting = false, true })
		case DeleteTarget:
			steps = append(steps, func() {
				if handover(w.latest()) == v1alpha1.HandoverAborted {
					w.target.held, w.target.deleting = false, true
				}
			})
		}
		return append(steps, func() {
			if w.write(version, func(s *v1alpha1.MigrationStatus) {
				w.project(s, d, m.Annotations[v1alpha1.AnnotationResolve] == "")
				w.projectSet(s, m, o)
			}) {
				a.wrote(w)
			}
		})
	}
	return a
}

func recordedTarget(m *v1alpha1.Migration) types.UID {
	if m.Status.Target == nil {
		return ""
	}
	return m.Status.Target.PodUID
}

// project is what the controller stores.
func (w *world) project(s *v1alpha1.MigrationStatus, d Decision, noRequest bool) {
	switch {
	case d.Resolution != nil:
		s.Resolution = d.Resolution
	case s.Resolution != nil && noRequest:
		s.Resolution.Closed = true
	}
	if s.Source == nil {
		s.Source = &v1alpha1.SourceStatus{PodRef: v1alpha1.PodRef{PodUID: w.source.uid, NodeName: "n1"}}
	}
	w.projectOwner(s, d.Action)
	if w.target.exists && (w.set == nil || s.Handover == nil) {
		if s.Target == nil {
			s.Target = &v1alpha1.TargetStatus{}
		}
		if s.Target.PodUID == "" {
			s.Target.PodRef = v1alpha1.PodRef{PodUID: w.target.uid, NodeName: "n2"}
		}
		if s.Target.NodeUID == "" && s.Handover == nil && w.node.Exists {
			s.Target.NodeUID = w.node.UID
		}
		if w.target.started && s.Target.StartedAt == nil {
			s.Target.StartedAt = &metav1.MicroTime{Time: w.now}
		}
	}
	if d.Failure != nil {
		s.Failure = d.Failure
	}
	if d.Phase != "" {
		s.Phase = d.Phase
	}
	if d.Action == Abort || d.Action == Reclaim {
		s.Handover = &v1alpha1.Handover{State: v1alpha1.HandoverAborted, By: "controller", Reason: d.Failure.Reason}
	}
}

func (w *world) sourceAgent() *actor {
	a := &actor{name: "source"}
	report := func(change func(*v1alpha1.SourceReport)) func() {
		return func() {
			w.write(-1, func(s *v1alpha1.MigrationStatus) {
				if s.Source != nil {
					change(&s.Source.SourceReport)
				}
			})
			a.wrote(w)
		}
	}
	state := func(v v1alpha1.SourceState) func() {
		return report(func(r *v1alpha1.SourceReport) { r.State = v })
	}
	a.look = func() []func() {
		m, version := a.read(w)
		s := m.Status.Source
		if s == nil {
			return nil
		}
		o := SourceObservation{Phase: m.Status.Phase, Handover: handover(m), Report: s.SourceReport, MaxRounds: 3,
			SwitchoverTimeout: time.Minute, DirtyTracking: true, PodGone: !w.source.exists, Frozen: w.sourceTasks == frozen,
			Moment: moments[w.pick(len(moments))], Verdict: v1alpha1.VerdictSwitch, Standing: w.pick(4) > 0, ChainBroken: w.pick(20) == 0}
		o.Ready = o.Standing && w.pick(3) > 0
		if t := m.Status.Target; t != nil {
			o.Gated = t.NodeName != "" && GateClosed(t.State)
			o.TargetReads = t.VerifiedRounds < rounds(o)
		}
		if w.pick(3) == 0 {
			o.Verdict = v1alpha1.VerdictContinue
		}
		if w.pick(30) == 0 {
			o.Verdict = v1alpha1.VerdictStalled
		}
		if s.FrozenAt != nil {
			o.FrozenFor = w.now.Sub(s.FrozenAt.Time)
		}
		if o.PodGone || o.Handover == v1alpha1.HandoverAborted {
			w.guarded = false
		}
		lost := w.sourceTasks == dead || w.sourceTasks == fresh
		o.Killed = lost && w.source.exists && !w.source.deleting && (w.guarded || s.FrozenAt != nil)
		action := w.deciders.source(o)
		w.log("source at v%d: %s (%s, tasks %s)", version, action, s.State, w.sourceTasks)
		switch action {
		case SourcePreflight:
			return []func(){state(v1alpha1.SourceChecked)}
		case SourceRound, SourceSwitchover:
			if lost {
				return []func(){report(func(r *v1alpha1.SourceReport) { r.Failure = &v1alpha1.Failure{Reason: v1alpha1.ReasonSourceChanged} })}
			}
		}
		switch action {
		case SourceRound:
			return []func(){report(func(r *v1alpha1.SourceReport) {
				n := rounds(SourceObservation{Report: *r}) + 1
				r.Round = &n
				switch {
				case r.State == v1alpha1.SourceReady:
				case Behind(o.Gated, true, n, o.MaxRounds):
					r.State = v1alpha1.SourcePreCopying
				case n >= 2:
					r.State = v1alpha1.SourceConverged
				default:
					r.State = v1alpha1.SourcePreCopying
				}
			})}
		case SourceCatchUp:
			return []func(){state(v1alpha1.SourcePreCopying)}
		case SourceConverge:
			return []func(){state(v1alpha1.SourceConverged)}
		case SourceAwaitMoment:
			return []func(){state(v1alpha1.SourceReady)}
		case SourceStall:
			return []func(){state(v1alpha1.SourceStalled)}
		case SourceSwitchover:
			at := metav1.NewMicroTime(w.now)
			if w.pick(12) == 0 {
				return []func(){func() { w.freeze() }, report(func(r *v1alpha1.SourceReport) {
					r.State, r.FrozenAt, r.Failure = v1alpha1.SourceFrozen, &at, &v1alpha1.Failure{Reason: v1alpha1.ReasonFinalDumpFailed}
				})}
			}
			return []func(){
				func() { w.freeze() },
				report(func(r *v1alpha1.SourceReport) { r.State, r.FrozenAt = v1alpha1.SourceFrozen, &at }),
				func() { w.dumped = w.dumped || w.sourceTasks == frozen },
				report(func(r *v1alpha1.SourceReport) { r.State, r.ManifestDigest = v1alpha1.SourceDumped, "digest" }),
			}
		case SourceAbort:
			return []func(){func() {
				if w.latest().Status.Handover == nil {
					w.write(-1, func(s *v1alpha1.MigrationStatus) {
						s.Handover = &v1alpha1.Handover{State: v1alpha1.HandoverAborted, By: "source", Reason: v1alpha1.ReasonSwitchoverTimeout}
					})
				}
				a.wrote(w)
			}}
		case SourceResume:
			return []func(){func() { w.thaw() }, state(v1alpha1.SourceResumed)}
		case SourceKill:
			return []func(){func() { w.sourceTasks = dead }, state(v1alpha1.SourceKilled)}
		case SourceClean:
			return []func(){func() { w.imagesGone = true }, state(v1alpha1.SourceCleaned)}
		}
		return nil
	}
	return a
}

func (w *world) freeze() {
	w.guarded = true
	if w.sourceTasks == running {
		w.sourceTasks = frozen
	}
}

func (w *world) thaw() {
	w.guarded = false
	if w.sourceTasks == frozen {
		w.sourceTasks = running
	}
}

func (w *world) targetAgent() *actor {
	a := &actor{name: "target"}
	state := func(v v1alpha1.TargetState) func() {
		return func() {
			w.write(-1, func(s *v1alpha1.MigrationStatus) {
				if s.Target != nil {
					s.Target.State = v
					if v == v1alpha1.TargetParked {
						s.Target.BootID = w.bootID()
					}
				}
			})
			if v == v1alpha1.TargetRestored && handover(w.latest()) == v1alpha1.HandoverCommitted {
				w.ran = true
			}
			if v == v1alpha1.TargetCleaned && w.targetMayRun() {
				w.violated("the target is called clean, and something may run there")
			}
			a.wrote(w)
		}
	}
	a.look = func() []func() {
		m, version := a.read(w)
		s, t := m.Status.Source, m.Status.Target
		if s == nil || t == nil || t.PodUID == "" {
			return nil
		}
		parked := w.parked && t.PodUID == w.target.uid
		committed := handover(m) == v1alpha1.HandoverCommitted
		rebooted := t.BootID != "" && t.BootID != w.bootID()
		lost := committed && !parked && w.tree == noRestore
		o := TargetObservation{Phase: m.Status.Phase, Handover: handover(m), SourceState: s.State, SourceRounds: rounds(SourceObservation{Report: s.SourceReport}),
			ManifestDigest: s.ManifestDigest, Report: t.TargetReport, GateRunning: w.gate && t.PodUID == w.target.uid, Parked: parked, Restored: w.tree == restored,
			RestoreFailed: w.tree == leftovers || w.tree == allCleaned || lost, TreeGone: !w.targetMayRun(), Lost: w.tree == died, Rebooted: rebooted,
			NodeChanged: t.NodeUID != "" && t.NodeUID != w.node.UID, RestoreBegun: w.targetMayRun() || w.tree == died, PodGone: !w.target.exists || t.PodUID != w.target.uid,
			Restoring: w.tree == restoring, StandStill: w.tree == standing && w.still == w.containers, VerifiedRounds: t.VerifiedRounds, Prepared: w.pick(2) == 0, ParkExpired: parked && w.pick(40) == 0}
		w.observeSetTarget(m, &o)
		o.Settled = !o.Placeholder // which prepares nothing
		action := w.deciders.target(o)
		w.log("target at v%d: %s (%s, parked %v, tree %q)", version, action, t.State, w.parked, w.tree)
		switch action {
		case TargetVerifyRound:
			return []func(){func() {
				w.write(-1, func(s *v1alpha1.MigrationStatus) { s.Target.VerifiedRounds++ })
				a.wrote(w)
			}}
		case TargetReportPrepared:
			return []func(){func() {
				w.write(-1, func(s *v1alpha1.MigrationStatus) { s.Target.PreparedAt = &metav1.MicroTime{Time: w.now} })
				a.wrote(w)
			}}
		case TargetOpenGate:
			return []func(){func() {
				if t.PodUID == w.target.uid {
					w.openGate()
				}
			}, state(v1alpha1.TargetReleased)}
		case TargetReport:
			switch {
			case w.tree == died:
				w.violated("what is dead is called restored")
			case w.tree == restored:
				return []func(){state(v1alpha1.TargetRestored)}
			case w.parked:
				return []func(){state(v1alpha1.TargetParked)}
			}
			return []func(){state(v1alpha1.TargetGated)}
		case TargetGiveBack:
			return []func(){func() { w.parked = false }, func() {
				w.write(-1, func(s *v1alpha1.MigrationStatus) {
					s.Target.State, s.Target.Failure = v1alpha1.TargetFailed, &v1alpha1.Failure{Reason: v1alpha1.ReasonParkTimeout}
				})
				a.wrote(w)
			}}
		case TargetCommit:
			return []func(){func() {
				live := &w.latest().Status
				if live.Handover == nil && live.Phase == v1alpha1.PhaseSwitchingOver && live.Source.ManifestDigest == "digest" {
					w.write(-1, func(s *v1alpha1.MigrationStatus) {
						s.Handover = &v1alpha1.Handover{State: v1alpha1.HandoverCommitted, By: "target", ManifestDigest: "digest"}
					})
				}
				a.wrote(w)
			}}
		case TargetRetry:
			return w.retrySteps(a)
		case TargetRestore:
			if w.set != nil {
				return w.restoreSteps(a, t.PodUID)
			}
			return []func(){func() { w.startRestore() }}
		case TargetLetGo:
			// It has read the register past the cache; what it does then takes a while.
			if handover(w.latest()) != v1alpha1.HandoverCommitted && !w.deciders.letsGoUnasked {
				return nil
			}
			return []func(){func() { w.marked = w.marked || w.tree == standing }, func() {
				if w.tree == standing && w.marked {
					w.tree, w.still, w.executed = restored, 0, true
				}
			}}
		case TargetDiscard:
			return []func(){func() {
				if w.tree == leftovers || w.tree == restored || w.tree == standing {
					w.endStanding()
				}
			}}
		case TargetReportGone:
			return []func(){func() {
				w.write(-1, func(s *v1alpha1.MigrationStatus) { s.Target.TreeGoneAt = &metav1.MicroTime{Time: w.now} })
				a.wrote(w)
			}}
		case TargetTakeBack:
			return []func(){func() {
				// The definition's rules take nothing back once the source is being removed.
				if m := w.latest(); handover(m) == v1alpha1.HandoverCommitted && m.Status.Phase != v1alpha1.PhaseCompleting && !Finished(m.Status.Phase) {
					if w.executed {
						w.violated("a commit is taken back though the pod has run")
					}
					w.write(-1, func(s *v1alpha1.MigrationStatus) {
						s.Handover = &v1alpha1.Handover{State: v1alpha1.HandoverAborted, By: "target", Reason: v1alpha1.ReasonRestoreFailed}
						s.Target.State = v1alpha1.TargetReverted
					})
				}
				a.wrote(w)
			}}
		case TargetClean:
			return []func(){func() { w.parked = false }, state(v1alpha1.TargetCleaned)}
		}
		return nil
	}
	return a
}

func (w *world) openGate() {
	if w.gate {
		w.gate, w.gateOpened = false, true
	}
}

func (w *world) startRestore() {
	if w.parked && (w.tree == noRestore || w.tree == standing && w.still < w.containers) {
		if w.executed {
			w.violated("an image set is restored again though it has run")
		}
		w.parked, w.tree = false, restoring
	}
}

func (w *world) bootID() string { return fmt.Sprint("boot-", w.boot) }
