// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"godwit.dev/godwit/api/v1alpha1"
)

// The deciders look at so little that every combination of it can be tried.
// These tests hold the rules that keep the pod from running twice, or nowhere,
// against all of them, possible or not.

var (
	allPhases = []v1alpha1.MigrationPhase{"", pending, preparing, preCopying, switching, completing, rolling, succeeded, failed, wasCancel}
	registers = []v1alpha1.HandoverState{"", committed, aborted}
	allSource = []v1alpha1.SourceState{"", v1alpha1.SourceChecked, v1alpha1.SourceRefused, v1alpha1.SourcePreCopying, v1alpha1.SourceConverged,
		v1alpha1.SourceStalled, v1alpha1.SourceReady, v1alpha1.SourceFrozen, v1alpha1.SourceDumped, v1alpha1.SourceResumed, v1alpha1.SourceKilled, v1alpha1.SourceCleaned}
	allTarget = []v1alpha1.TargetState{"", v1alpha1.TargetGated, v1alpha1.TargetReleased, v1alpha1.TargetParked, v1alpha1.TargetRestoring,
		v1alpha1.TargetRestored, v1alpha1.TargetFailed, v1alpha1.TargetReverted, v1alpha1.TargetCleaned}
	bools    = []bool{false, true}
	verdicts = []v1alpha1.ConvergenceVerdict{"", v1alpha1.VerdictContinue, v1alpha1.VerdictSwitch, v1alpha1.VerdictThrottle, v1alpha1.VerdictStalled}
	moments  = []MomentVerdict{"", MomentFreeze, MomentWait, MomentRound}
)

func TestSourceRules(t *testing.T) {
	n := 0
	check := func(o SourceObservation) {
		n++
		bad := func(rule string) { t.Errorf("%s: %s for %+v", rule, DecideSource(o), o) }
		switch a := DecideSource(o); a {
		case SourceResume:
			if o.Handover != aborted {
				bad("thaws without an abort")
			}
		case SourceKill:
			if o.Handover != committed || !o.PodGone || o.Phase != completing && !Finished(o.Phase) {
				bad("kills before the target is confirmed and the pod object gone")
			}
		case SourceAbort:
			if o.Handover != "" || o.Phase != switching {
				bad("aborts what is decided, or has not begun")
			}
		case SourceSwitchover:
			if o.Handover != "" || o.Phase != switching || o.Frozen || o.Report.Failure != nil {
				bad("freezes when not armed, or twice")
			}
			if !o.Ready || o.Verdict != "" && o.Verdict != v1alpha1.VerdictSwitch {
				bad("freezes before the dumps are ready, or above the target downtime")
			}
		case SourceStandBy, SourceAwaitReady, SourceStall:
			if o.Handover != "" || o.Phase != switching || o.Frozen || o.Killed || o.Report.Failure != nil || o.Report.State == v1alpha1.SourceStalled {
				bad("makes ready for no freeze")
			}
			if o.Standing == (a == SourceStandBy) {
				bad("starts the dumps twice, or waits for none")
			}
		case SourceRound:
			if o.Handover != "" || o.Frozen && o.Phase == switching || o.Phase != preCopying && o.Phase != switching {
				bad("copies when it must not")
			}
			if o.MaxRounds == 0 && o.Phase == preCopying {
				bad("copies though no pre-copy is wanted")
			}
			if rounds(o) > o.MaxRounds && o.Phase == switching && o.Verdict != v1alpha1.VerdictThrottle {
				bad("copies without end")
			}
		case SourceAwaitMoment:
			if o.Handover != "" || o.Phase != switching || o.Frozen || o.Killed || o.Report.Failure != nil || o.Moment != MomentWait || !o.Ready || rounds(o) > o.MaxRounds && !o.Refreshed {
				bad("waits for a better moment when there is none")
			}
		case SourceClean:
			if o.Frozen && o.Handover == aborted {
				bad("leaves a frozen pod behind")
			}
			if o.Handover == "" {
				bad("removes images that may be needed")
			}
			if o.Handover == committed && o.Report.State != v1alpha1.SourceKilled {
				bad("removes the images while they may be all there is")
			}
		case SourcePreflight:
			if o.Phase != preparing || o.Handover != "" {
				bad("checks at the wrong time")
			}
		case SourceReportKilled:
			if o.Handover != committed || !o.Killed || o.Report.Failure != nil {
				bad("tells of a kill that was not seen, twice, or that the register decides")
			}
		case SourceTellPeers:
			if o.Handover != committed || o.Phase != completing && !Finished(o.Phase) {
				bad("ends the connections of a pod that may go on here")
			}
		case SourceConverge:
			if o.Handover != "" || o.Phase != preCopying || o.Report.Failure != nil || o.Report.State == v1alpha1.SourceConverged {
				bad("converges twice, or what is not copied")
			}
			if o.MaxRounds > 0 && o.DirtyTracking && Behind(o.Gated, o.TargetReads, rounds(o), o.MaxRounds) {
				bad("has the gate opened before the target has read what there is")
			}
		case SourceCatchUp:
			if o.Handover != "" || o.Phase != preCopying || o.Report.Failure != nil || o.Report.State != v1alpha1.SourceConverged || !o.Gated || !o.TargetReads || rounds(o) >= o.MaxRounds {
				bad("takes back that it has converged")
			}
		case SourceAwaitTarget:
			if o.Handover != "" || o.Phase != preCopying || o.Report.Failure != nil || o.Report.State == v1alpha1.SourceConverged || !o.Gated || !o.TargetReads {
				bad("waits for a target that waits for it")
			}
		case SourceIdle, SourceAwaitArm, SourceAwaitCommit:
		default:
			bad("unknown action")
		}
	}
	two := int32(2)
	failure := &v1alpha1.Failure{Reason: v1alpha1.ReasonPreDumpFailed}
	for _, phase := range allPhases {
		for _, reg := range registers {
			for _, state := range allSource {
				for _, flags := range combinations(8) {
					for _, verdict := range verdicts {
						for _, frozenFor := range []time.Duration{0, time.Second, time.Hour} {
							for _, maxRounds := range []int32{0, 2, 8} {
								for _, moment := range moments {
									r := v1alpha1.SourceReport{State: state, Round: &two}
									if flags[0] {
										r.Failure = failure
									}
									check(SourceObservation{Phase: phase, Handover: reg, Report: r, MaxRounds: maxRounds, SwitchoverTimeout: time.Minute, DirtyTracking: flags[1],
										PodGone: flags[2], Frozen: flags[3], Killed: flags[4], FrozenFor: frozenFor, Verdict: verdict, Moment: moment,
										Standing: flags[5], Ready: flags[5] && flags[6], ChainBroken: !flags[5] && flags[6],
										Gated: flags[7], TargetReads: flags[7] && flags[6], Refreshed: flags[5] && flags[7]})
								}
							}
						}
					}
				}
			}
		}
	}
	t.Logf("%d combinations", n)
}

func TestTargetRules(t *testing.T) {
	check := func(o TargetObservation) {
		bad := func(rule string) { t.Errorf("%s: %s for %+v", rule, DecideTarget(o), o) }
		switch a := DecideTarget(o); a {
		case TargetRestore:
			if o.Handover != committed || o.Restored || o.RestoreFailed || o.Restoring || o.Lost || o.Rebooted || o.Report.TreeGoneAt != nil {
				bad("restores without a commit, or again")
			}
		case TargetLetGo:
			if o.Handover != committed || !o.StandStill || o.Restored || o.RestoreFailed || o.Restoring || o.Lost || o.Rebooted || o.Report.TreeGoneAt != nil || o.Phase == completing {
				bad("lets go what does not stand still, or what may have to be taken back")
			}
		case TargetTakeBack:
			if o.Handover != committed || !o.TreeGone || !o.RestoreFailed || o.Restored || o.Restoring || o.Lost || o.Rebooted || o.Report.TreeGoneAt != nil || o.Report.State == v1alpha1.TargetRestored || o.Phase == completing {
				bad("takes back a commit though the pod may run, or the source is being removed")
			}
		case TargetDiscard:
			abortedTree := o.Handover == aborted && o.RestoreBegun && !o.TreeGone
			lost := o.Lost || o.Rebooted || (o.PodGone || !o.Restored) && o.Report.State == v1alpha1.TargetRestored
			lost = lost && o.Handover == committed && o.RestoreBegun && o.Phase == switching
			if !abortedTree && !lost && (o.Handover != committed || !o.RestoreFailed || o.Restored) || o.Restoring {
				bad("discards what runs")
			}
		case TargetReportGone:
			ran := o.Report.State == v1alpha1.TargetRestored && (o.PodGone || !o.Restored)
			if o.Handover != committed || o.Phase != switching || o.Restoring || o.RestoreBegun && !o.TreeGone || !ran && !o.Lost && !o.Rebooted {
				bad("reports gone what may be there")
			}
		case TargetCommit:
			if o.Handover != "" || o.Phase != switching || o.SourceState != v1alpha1.SourceDumped || o.ManifestDigest == "" || !o.Parked || o.Report.Failure != nil || o.NodeChanged || o.Rebooted {
				bad("commits to what is not there")
			}
		case TargetPrepare:
			if o.Handover != "" || o.Phase != switching || !o.Parked || o.Prepared || o.Report.Failure != nil || o.NodeChanged || o.ParkExpired || o.Rebooted {
				bad("prepares what will not be restored")
			}
		case TargetReportPrepared:
			if o.Handover != "" || o.Phase != switching || !o.Parked || !o.Settled || o.Report.PreparedAt != nil || o.Report.Failure != nil || o.NodeChanged || o.ParkExpired || o.Rebooted {
				bad("reports that it is prepared for what will not be restored, or twice")
			}
		case TargetOpenGate:
			if o.Handover != "" || o.SourceState != v1alpha1.SourceConverged || o.VerifiedRounds < o.SourceRounds {
				bad("releases too early")
			}
		case TargetClean:
			if o.Handover == committed {
				bad("cleans up what is being restored")
			}
			if o.Handover == aborted && o.RestoreBegun && !o.TreeGone {
				bad("leaves behind what was restored")
			}
		case TargetGiveBack:
			if o.Handover != "" || !o.ParkExpired && !o.NodeChanged {
				bad("fails a create that is needed")
			}
		case TargetReport:
			if o.Handover == committed && (!o.Restored || o.Lost || o.Rebooted) {
				bad("reports restored what is not seen")
			}
		case TargetIdle, TargetVerifyRound:
		default:
			bad("unknown action")
		}
	}
	for _, phase := range allPhases {
		for _, reg := range registers {
			for _, source := range []v1alpha1.SourceState{v1alpha1.SourcePreCopying, v1alpha1.SourceConverged, v1alpha1.SourceReady, v1alpha1.SourceDumped} {
				for _, state := range allTarget {
					for _, digest := range []string{"", "d"} {
						for _, verified := range []int32{1, 2} {
							for i, flags := range combinations(13) {
								// What became of a tree that may have run: at most one of these.
								lost, rebooted, treeGone := i%4 == 1, i%4 == 2, i%4 == 3
								flags = flags[2:]
								r := v1alpha1.TargetReport{State: state}
								if flags[0] {
									r.Failure = &v1alpha1.Failure{Reason: v1alpha1.ReasonParkTimeout}
								}
								if treeGone {
									r.TreeGoneAt = &metav1.MicroTime{}
								}
								o := TargetObservation{Phase: phase, Handover: reg, Lost: lost, Rebooted: rebooted, SourceState: source, SourceRounds: 2, ManifestDigest: digest, Report: r,
									GateRunning: flags[1], Parked: flags[2], ParkExpired: flags[3], Restored: flags[4], RestoreFailed: flags[5],
									TreeGone: flags[6], RestoreBegun: flags[7], PodGone: flags[8], NodeChanged: flags[9], Restoring: flags[10], VerifiedRounds: verified,
									// Rounds do not matter any more when it does.
									StandStill: verified == 2 && !flags[4]}
								check(o)
								if o.Parked {
									o.Prepared, o.Settled = true, true
									check(o)
								}
							}
						}
					}
				}
			}
		}
	}
}

func TestControllerRules(t *testing.T) {
	for _, phase := range allPhases {
		for _, reg := range registers {
			for _, source := range allSource {
				for _, target := range allTarget {
					for _, f := range combinations(7) {
						o := observed(phase, sourceState(source), withTarget(target, 0))
						if reg != "" {
							register(reg)(&o)
						}
						for i, change := range []func(*Observation){cancelled, late, sourceGone, targetGone, sourceDeleting, targetDeleting, targetStarted} {
							// Only a pod that exists has these properties.
							if f[i] && (i < 4 || i == 4 && o.Source.Exists || i > 4 && o.Target.Exists) {
								change(&o)
							}
						}
						checkController(t, o)
						if source != v1alpha1.SourceDumped && source != v1alpha1.SourceCleaned {
							continue // after the commit only these two matter
						}
						for _, node := range []func(*Observation){func(*Observation) {}, nodeFine, nodeSilent, nodeDeleted, nodeAnew, outOfService} {
							o := o
							o.Migration = o.Migration.DeepCopy()
							node(&o)
							for _, request := range []v1alpha1.ResolveRequest{"", v1alpha1.ResolveSource, v1alpha1.ResolveTarget, v1alpha1.ResolveForceSource, v1alpha1.ResolveForceTarget} {
								asked(request)(&o)
								checkController(t, o)
								if request == v1alpha1.ResolveSource {
									o := o
									o.Migration = o.Migration.DeepCopy()
									treeGone(&o)
									checkController(t, o)
								}
							}
						}
					}
				}
			}
		}
	}
}

func checkController(t *testing.T, o Observation) {
	t.Helper()
	m := o.Migration
	d := Decide(o)
	bad := func(rule string) {
		t.Errorf("%s: %+v for phase %s, handover %s, source %+v %s, target %+v %s", rule, d, m.Status.Phase, handover(m),
			o.Source, m.Status.Source.State, o.Target, m.Status.Target.State)
	}
	switch d.Action {
	case DeleteSource:
		if handover(m) != committed || m.Status.Phase != completing {
			bad("deletes the source before the target is confirmed")
		}
	case DeleteTarget:
		if handover(m) != aborted || m.Status.Phase != rolling {
			bad("deletes the target without an abort")
		}
	case Abort:
		if handover(m) != "" || d.Phase != rolling || d.Failure == nil || Finished(m.Status.Phase) {
			bad("aborts what is decided")
		}
	case Reclaim:
		if handover(m) != committed || d.Phase != rolling || d.Failure == nil || Finished(m.Status.Phase) || m.Status.Phase == completing || !o.Source.Exists || o.Source.Deleting && d.Failure.Reason == v1alpha1.ReasonResolvedToSource {
			bad("takes back what cannot be taken back")
		}
		proof := o.TargetNode.Known && (!o.TargetNode.Exists || o.TargetNode.OutOfService || o.TargetNode.UID != m.Status.Target.NodeUID)
		ran := o.Target.Started || m.Status.Target.State == v1alpha1.TargetRestored || m.Status.Target.TreeGoneAt != nil
		person := d.Resolution != nil && d.Resolution.Outcome == v1alpha1.ResolutionAccepted
		switch {
		case person && d.Resolution.Forced && d.Resolution.Request == v1alpha1.ResolveForceSource:
		case person && d.Resolution.Request == v1alpha1.ResolveSource:
			if !proof && m.Status.Target.TreeGoneAt == nil {
				bad("lets the pod run twice because somebody asked")
			}
		case person || !proof || ran:
			bad("takes back without proof, or what has run")
		}
	case CreateTarget:
		if handover(m) != "" || m.Status.Phase != preCopying || o.Target.Exists {
			bad("creates a target that is not wanted")
		}
	case Advance:
		checkAdvance(m, o, d, bad)
	case Wait:
		if d.Phase != "" {
			bad("waits and yet enters a phase")
		}
	default:
		bad("unknown action")
	}
}

func checkAdvance(m *v1alpha1.Migration, o Observation, d Decision, bad func(string)) {
	switch {
	case Finished(m.Status.Phase):
		bad("leaves a final phase")
	case d.Phase == m.Status.Phase:
		bad("enters the phase it is in")
	case d.Phase == completing && d.Resolution != nil && d.Resolution.Outcome == v1alpha1.ResolutionAccepted:
		if handover(m) != committed || d.Resolution.Request != v1alpha1.ResolveForceTarget && (d.Resolution.Request != v1alpha1.ResolveTarget || !o.Target.Started) {
			bad("gives the source up because somebody asked")
		}
	case d.Phase == completing && (handover(m) != committed || m.Status.Target.State != v1alpha1.TargetRestored || !o.Target.Started):
		bad("completes without a confirmed target")
	case d.Phase == switching && (handover(m) != "" || m.Status.Target.State != v1alpha1.TargetParked || m.Status.Source.State != v1alpha1.SourceConverged):
		bad("arms too early")
	case d.Phase == succeeded && (handover(m) != committed || o.Source.Exists):
		bad("succeeds too early")
	case (d.Phase == failed || d.Phase == wasCancel) && d.Failure == nil:
		bad("fails without a reason")
	case (d.Phase == failed || d.Phase == wasCancel) && handover(m) == committed && (o.Source.Exists || o.Target.Exists):
		bad("fails after the commit")
	case (d.Phase == failed || d.Phase == wasCancel) && handover(m) == "" && m.Status.Phase != "" && m.Status.Phase != pending && m.Status.Phase != preparing:
		bad("ends without a rollback")
	case (d.Phase == failed || d.Phase == wasCancel) && handover(m) == aborted && (o.Target.Exists || o.Source.Exists && m.Status.Source.State != v1alpha1.SourceCleaned):
		bad("ends before the rollback is done")
	}
}

// combinations are all lists of n truth values.
func combinations(n int) [][]bool {
	if n == 0 {
		return [][]bool{nil}
	}
	var all [][]bool
	for _, rest := range combinations(n - 1) {
		for _, b := range bools {
			all = append(all, append([]bool{b}, rest...))
		}
	}
	return all
}
