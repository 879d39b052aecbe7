// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"time"

	"godwit.dev/godwit/api/v1alpha1"
)

// SourceObservation is everything DecideSource looks at: what the API says and
// what the node says, never what the agent remembers.
type SourceObservation struct {
	// Phase, Handover ("" while the register is empty) and the agent's own last
	// published report, from the API.
	Phase    v1alpha1.MigrationPhase
	Handover v1alpha1.HandoverState
	Report   v1alpha1.SourceReport
	// MaxRounds from the spec.
	MaxRounds int32
	// SwitchoverTimeout is how long the pod may be frozen without a commit; see
	// SwitchoverLimit.
	SwitchoverTimeout time.Duration
	// DirtyTracking of this node's kernel.
	DirtyTracking bool
	// PodGone: the source pod object (by UID) no longer exists.
	PodGone bool
	// Killed: the containers that were frozen do not run any more, though the pod
	// exists and nobody is deleting it: kubelet has ended them, or the node has
	// restarted.
	Killed bool
	// Frozen: the kernel says that a task of the pod is frozen now.
	Frozen bool
	// FrozenFor is how long ago the freeze began (Report.FrozenAt), 0 if never.
	FrozenFor time.Duration
	// Verdict of Converge on what is dirty right now; "" when not measured.
	Verdict v1alpha1.ConvergenceVerdict
	// Moment is the verdict of ChooseMoment on a source that has converged; "" when
	// it was not asked.
	Moment MomentVerdict
	// ChainBroken: the next dump has to be a full one.
	ChainBroken bool
	// Gated: the target's gate holds it back, which is opened when the source has
	// converged and the target has read all rounds. TargetReads: it has not yet, and will not
	// have soon.
	Gated, TargetReads bool
	// PeersTold: this agent has told the peers of the frozen pod. Doing it again after
	// a restart does no harm.
	PeersTold bool
	// Refreshed: a round was made since the source was armed.
	Refreshed bool
	// Standing: the final dumps have been started, and touch nothing before the freeze.
	// Ready: all of them wait for it, and the target has prepared its restore, or was
	// waited for long enough.
	Standing, Ready bool
}

// SourceAction is what the source agent has to do.
type SourceAction string

const (
	// SourceIdle: nothing until something changes.
	SourceIdle SourceAction = "Idle"
	// SourcePreflight: check the pod and the node, report Checked or Refused.
	SourcePreflight SourceAction = "Preflight"
	// SourceRound: one pre-copy round of every container, then Converge.
	SourceRound SourceAction = "Round"
	// SourceCatchUp: report PreCopying again, so that the gate stays closed.
	SourceCatchUp SourceAction = "CatchUp"
	// SourceAwaitTarget: no round is needed as far as the source knows; look at the dirty
	// memory now and then until the target has read all there are.
	SourceAwaitTarget SourceAction = "AwaitTarget"
	// SourceConverge: report Converged without a (further) round.
	SourceConverge SourceAction = "Converge"
	// SourceAwaitArm: converged; look at the dirty memory now and then until armed.
	SourceAwaitArm SourceAction = "AwaitArm"
	// SourceStandBy: armed; start the final dumps, which then wait for the freeze.
	SourceStandBy SourceAction = "StandBy"
	// SourceAwaitReady: the final dumps are being started, or the target prepares its
	// restore: in the freeze that would take from the dumps what both need.
	SourceAwaitReady SourceAction = "AwaitReady"
	// SourceAwaitMoment: the final dumps wait, in a burst of the pod's writing; count
	// the dirty memory until it is over. Or the target reads the last round.
	SourceAwaitMoment SourceAction = "AwaitMoment"
	// SourceStall: report that more is dirty than may be copied while the pod is frozen.
	SourceStall SourceAction = "Stall"
	// SourceSwitchover: freeze, final dump, seal, publish the digest. The tasks
	// stay frozen.
	SourceSwitchover SourceAction = "Switchover"
	// SourceAwaitCommit: frozen and published; wait for the register until the
	// switchover timeout.
	SourceAwaitCommit SourceAction = "AwaitCommit"
	// SourceAbort: write Aborted into the register (precondition: empty).
	SourceAbort SourceAction = "Abort"
	// SourceReportKilled: kubelet has ended the frozen containers after the commit;
	// report the failure SourceKilled. The target goes on.
	SourceReportKilled SourceAction = "ReportKilled"
	// SourceResume: thaw, connect, report Resumed.
	SourceResume SourceAction = "Resume"
	// SourceTellPeers: the target was confirmed; reset the connections of the pod that
	// stays frozen, so that its peers connect to the target.
	SourceTellPeers SourceAction = "TellPeers"
	// SourceKill: the pod object is gone; kill what is left of it, report Killed.
	SourceKill SourceAction = "Kill"
	// SourceClean: remove the images and all traces on the node, report Cleaned.
	SourceClean SourceAction = "Clean"
)

// Armed says whether final dumps that have been started are still wanted.
func (a SourceAction) Armed() bool {
	switch a {
	case SourceStandBy, SourceAwaitReady, SourceAwaitMoment, SourceRound, SourceSwitchover:
		return true
	}
	return false
}

// DecideSource says what the source agent has to do next. A frozen pod is
// thawed only under an aborted register. Under a committed one it stays frozen
// until kubelet ends it, because the controller has deleted the pod after the
// target was confirmed (phase Completing), or, when it keeps its name, to make room
// for the target (phase Replacing); what is left when the pod object is gone is
// killed. The images stay until the target is confirmed.
func DecideSource(o SourceObservation) SourceAction {
	state := o.Report.State
	switch o.Handover {
	case v1alpha1.HandoverAborted:
		switch {
		case state == v1alpha1.SourceCleaned && !o.Frozen:
			return SourceIdle
		case o.Frozen || state != v1alpha1.SourceResumed && !o.PodGone:
			return SourceResume
		}
		return SourceClean

	case v1alpha1.HandoverCommitted:
		confirmed := o.Phase == v1alpha1.PhaseCompleting || Finished(o.Phase)
		given := confirmed || o.Phase == v1alpha1.PhaseReplacing
		switch {
		case !given && o.Killed && o.Report.Failure == nil:
			return SourceReportKilled
		case !given || state == v1alpha1.SourceCleaned:
			return SourceIdle
		case state == v1alpha1.SourceKilled && !confirmed:
			return SourceIdle // the images are all that there is of the pod
		case state == v1alpha1.SourceKilled:
			return SourceClean
		case o.PodGone:
			return SourceKill
		case !o.PeersTold:
			return SourceTellPeers
		}
		// While the pod object exists only kubelet may end its tasks: killed
		// before kubelet has seen the deletion, they would be started afresh.
		return SourceIdle
	}

	// The register is empty: the source owns the pod.
	switch o.Phase {
	case v1alpha1.PhasePreparing:
		if state == "" {
			return SourcePreflight
		}
	case v1alpha1.PhasePreCopying:
		return decidePreCopySource(o)
	case v1alpha1.PhaseSwitchingOver:
		switch {
		case o.Report.Failure != nil, state == v1alpha1.SourceStalled:
			return SourceIdle // the controller aborts
		case o.Killed:
			return SourceAbort // nothing is left to fall back on; kubelet starts it anew
		case state == v1alpha1.SourceDumped && o.FrozenFor > o.SwitchoverTimeout:
			return SourceAbort
		case state == v1alpha1.SourceDumped:
			return SourceAwaitCommit
		case state == v1alpha1.SourceFrozen || o.Frozen:
			// The agent restarted in the middle of the final dump. What it wrote
			// is not complete and its end was not seen: give up, nothing is lost.
			return SourceAbort
		}
		return decideArmed(o)
	}
	return SourceIdle
}

// decideArmed says what an armed source does until it is frozen: the final dumps are
// started first, so that nothing lies between the moment that is chosen, or the end of
// the last round, and the freeze. It is frozen only within the target downtime, or if
// it was asked for whatever the downtime.
func decideArmed(o SourceObservation) SourceAction {
	// At most one round more than asked for, and those with less and less CPU time,
	// so that this ends.
	more := rounds(o) <= o.MaxRounds
	within := o.Verdict == "" || o.Verdict == v1alpha1.VerdictSwitch
	switch {
	case o.ChainBroken && rounds(o) > 0 && more:
		return SourceRound // what the final dumps build on has to be whole when they are started
	case !o.Standing:
		return SourceStandBy
	case !o.Ready:
		return SourceAwaitReady
	case o.Verdict == v1alpha1.VerdictThrottle:
		return SourceRound
	case o.Moment == MomentWait && (more || o.Refreshed):
		return SourceAwaitMoment
	case (o.Moment == MomentRound || !within) && more:
		return SourceRound
	case !within:
		return SourceStall
	}
	return SourceSwitchover
}

func rounds(o SourceObservation) int32 {
	if o.Report.Round == nil {
		return 0
	}
	return *o.Report.Round
}

func decidePreCopySource(o SourceObservation) SourceAction {
	switch {
	case o.Report.Failure != nil, o.Report.State == v1alpha1.SourceStalled:
		return SourceIdle
	case o.Report.State == v1alpha1.SourceConverged:
		// "Rounds go on until the target is parked", but only those that pay.
		if (o.Verdict == v1alpha1.VerdictContinue || o.Moment == MomentRound) && rounds(o) < o.MaxRounds {
			return SourceRound
		}
		if o.Verdict == v1alpha1.VerdictSwitch && !o.ChainBroken && Behind(o.Gated, o.TargetReads, rounds(o), o.MaxRounds) {
			return SourceCatchUp // the target came when the source had converged
		}
		return SourceAwaitArm
	case o.MaxRounds == 0 || !o.DirtyTracking:
		return SourceConverge
	case o.Verdict == v1alpha1.VerdictSwitch && rounds(o) > 0 && !o.ChainBroken:
		// What was dirtied while the target read is copied before the gate is opened:
		// nothing waits for it until then.
		switch {
		case Behind(o.Gated, o.TargetReads, rounds(o), o.MaxRounds):
			return SourceAwaitTarget
		case o.Moment == MomentRound && rounds(o) < o.MaxRounds:
			return SourceRound
		}
		return SourceConverge
	}
	return SourceRound
}

// GateClosed says whether a target in this state is still held back by its gate.
func GateClosed(s v1alpha1.TargetState) bool { return s == "" || s == v1alpha1.TargetGated }

// Behind says whether a source that could be frozen as far as its own rounds go is not to
// report so yet: the target, held back by its gate, has rounds to read, and another one is
// allowed for what is dirtied meanwhile.
func Behind(gated, targetReads bool, rounds, maxRounds int32) bool {
	return gated && targetReads && rounds < maxRounds
}
