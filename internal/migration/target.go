// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package migration

import "godwit.dev/godwit/api/v1alpha1"

// TargetObservation is everything DecideTarget looks at.
type TargetObservation struct {
	// Phase, Handover, the source's published state and digest, and the agent's
	// own last report, from the API.
	Phase          v1alpha1.MigrationPhase
	Handover       v1alpha1.HandoverState
	SourceState    v1alpha1.SourceState
	SourceRounds   int32
	ManifestDigest string
	Report         v1alpha1.TargetReport
	// SameName: the target has the source's name, and is made when the source is gone.
	// Placeholder: what is looked at is only the pod that keeps its place until then.
	SameName, Placeholder bool
	// GateRunning: the target pod's gate runs on this node.
	GateRunning bool
	// Parked: the create of the pod's first container is parked in the wrapper right
	// now. Kubelet creates the next one when that has returned.
	Parked bool
	// Prepared: every parked create was told which images it will have to restore.
	Prepared bool
	// Settled: what they were told to prepare is there, or has failed.
	Settled bool
	// ParkExpired: a create has been parked so long that it must be given back.
	ParkExpired bool
	// Restored: every container was restored and is seen to run, or kubelet has
	// seen it run and end. RestoreFailed: a restore has ended without success, or
	// can no longer succeed.
	Restored, RestoreFailed bool
	// StandStill: every container was restored, and not all of them run yet: they
	// stand still until the last one is there.
	StandStill bool
	// Lost: a container's processes have run, or may have, and they are not there,
	// nor has kubelet seen them run and end.
	Lost bool
	// Rebooted: the node was started anew since it last reported its parked
	// creates. What it has done since then nobody knows, and nothing of it is left.
	Rebooted bool
	// RestoreBegun: a create of the pod was, or may have been, told to restore
	// since the node has started.
	RestoreBegun bool
	// Restoring: a restore is under way, or a wrapper lives that may have been told
	// to begin one, by this agent or by the one before it.
	Restoring bool
	// TreeGone: nothing of the restored tree is left on this node (seen, not assumed).
	TreeGone bool
	// PodGone: the target pod object (by UID) no longer exists.
	PodGone bool
	// NodeChanged: this node's Node object is not the one that the target pod was
	// placed on. Under the old one's UID nothing may be committed: whoever sees
	// the new one takes it for proof that the committed target is gone.
	NodeChanged bool
	// Verified rounds so far.
	VerifiedRounds int32
}

// TargetAction is what the target agent has to do.
type TargetAction string

const (
	// TargetIdle: nothing until something changes.
	TargetIdle TargetAction = "Idle"
	// TargetVerifyRound: read and check the next finished round.
	TargetVerifyRound TargetAction = "VerifyRound"
	// TargetOpenGate: end the gate, so that kubelet creates the containers.
	TargetOpenGate TargetAction = "OpenGate"
	// TargetReport: only publish what changed (gated, parked).
	TargetReport TargetAction = "Report"
	// TargetPrepare: let the parked creates do what can be done before the commit.
	TargetPrepare TargetAction = "Prepare"
	// TargetReportPrepared: report that nothing more is prepared before the commit.
	TargetReportPrepared TargetAction = "ReportPrepared"
	// TargetGiveBack: fail the parked creates and report ParkTimeout, or
	// TargetNodeLost when the Node has changed.
	TargetGiveBack TargetAction = "GiveBack"
	// TargetCommit: verify the image set against the digest, write Committed.
	TargetCommit TargetAction = "Commit"
	// TargetRestore: let the parked creates restore, report Restoring, then Restored.
	TargetRestore TargetAction = "Restore"
	// TargetLetGo: all containers of the pod are restored; let them go together.
	TargetLetGo TargetAction = "LetGo"
	// TargetDiscard: remove what was restored, or what a failed restore left, and
	// prove that it is gone.
	TargetDiscard TargetAction = "Discard"
	// TargetTakeBack: write Committed → Aborted. Only after TreeGone.
	TargetTakeBack TargetAction = "TakeBack"
	// TargetRetry: forget a restore that has failed and left nothing, so that the next
	// create is restored again.
	TargetRetry TargetAction = "Retry"
	// TargetReportGone: publish that nothing is left of a pod that ran here, or may have.
	TargetReportGone TargetAction = "ReportGone"
	// TargetClean: fail what is parked, remove all traces on the node, report Cleaned.
	TargetClean TargetAction = "Clean"
)

// DecideTarget says what the target agent has to do next. It restores only
// under a committed register, and takes a commit back only when nothing of the
// restored tree is left; of a pod that keeps its name it tries again instead. Under an aborted one the source may run: whatever was
// restored is killed before anything else, and no matter how well it does.
func DecideTarget(o TargetObservation) TargetAction {
	state := o.Report.State
	if o.Handover == v1alpha1.HandoverAborted || o.Handover == "" && (o.Phase == v1alpha1.PhaseRollingBack || Finished(o.Phase)) {
		switch {
		case state == v1alpha1.TargetCleaned:
			return TargetIdle
		case o.Handover == v1alpha1.HandoverAborted && o.Restoring:
			return TargetIdle // until it has ended: it could still make processes
		case o.Handover == v1alpha1.HandoverAborted && o.RestoreBegun && !o.TreeGone:
			return TargetDiscard
		}
		return TargetClean
	}
	if o.Handover == v1alpha1.HandoverCommitted {
		return decideRestore(o)
	}

	switch o.Phase {
	case v1alpha1.PhasePreCopying, v1alpha1.PhaseSwitchingOver:
	default:
		return TargetIdle
	}
	if o.Report.Failure != nil {
		return TargetIdle // the controller aborts
	}
	armed := o.Phase == v1alpha1.PhaseSwitchingOver
	switch {
	case o.ParkExpired, o.NodeChanged:
		return TargetGiveBack
	case o.Parked && o.Rebooted:
		return TargetReport // from which boot on it may restore
	case armed && o.ManifestDigest != "" && o.SourceState == v1alpha1.SourceDumped && o.Parked:
		return TargetCommit
	case o.Parked && state != v1alpha1.TargetParked:
		return TargetReport
	case !o.Parked && state == v1alpha1.TargetParked:
		return TargetReport
	case armed && o.Parked && !o.Prepared && !o.Placeholder && (o.SourceState == v1alpha1.SourceReady || o.SourceState == v1alpha1.SourceFrozen):
		return TargetPrepare
	case armed && o.Parked && o.Prepared && o.Settled && o.Report.PreparedAt == nil:
		return TargetReportPrepared
	case o.GateRunning && o.SourceState == v1alpha1.SourceConverged && o.VerifiedRounds >= o.SourceRounds:
		return TargetOpenGate
	case o.VerifiedRounds < o.SourceRounds:
		return TargetVerifyRound
	case o.GateRunning && state == "":
		return TargetReport
	}
	return TargetIdle
}

// decideRestore says what to do under a committed register. The commit is taken
// back only if the pod has not run here; once it may have, a person decides.
func decideRestore(o TargetObservation) TargetAction {
	reported := o.Report.State == v1alpha1.TargetRestored
	unconfirmed := o.Phase == v1alpha1.PhaseSwitchingOver || o.Phase == v1alpha1.PhaseReplacing
	// A pod that keeps its name has nothing to fall back on: its commit is not taken
	// back, and a restore that has failed is tried again.
	begun := o.RestoreBegun || o.Report.RestoreStartedAt != nil
	// It ran, or may have, and before the source was removed it was lost: with the
	// pod's object, with a create that failed after all, or with the node's power.
	lost := o.Lost || o.Rebooted || reported && (o.PodGone || !o.Restored)
	switch {
	case o.Report.TreeGoneAt != nil, o.Report.State == v1alpha1.TargetCleaned, reported && !unconfirmed:
		return TargetIdle
	case o.SameName && (o.Placeholder || o.Phase != v1alpha1.PhaseReplacing):
		return TargetIdle // until the source has given the name up
	case o.Phase == v1alpha1.PhaseCompleting, Finished(o.Phase):
		// A person has said that the pod is the target's, whatever is left of it:
		// the source is being removed, and nothing is taken back any more.
		return TargetIdle
	case o.Restoring:
		// Neither is another one told, nor anything discarded, before it has ended:
		// it could still make processes.
		return TargetIdle
	case lost && !unconfirmed:
		return TargetIdle // it is decided already
	case lost && o.RestoreBegun && !o.TreeGone:
		return TargetDiscard
	case lost:
		return TargetReportGone
	case reported:
		return TargetIdle
	case o.Restored:
		return TargetReport
	case o.SameName && o.GateRunning:
		return TargetOpenGate
	case o.SameName && !begun:
		// Also when the pod is gone: there will be another.
	case o.RestoreFailed && !o.TreeGone:
		return TargetDiscard
	case o.RestoreFailed && o.SameName:
		return TargetRetry
	case o.RestoreFailed:
		return TargetTakeBack
	case o.StandStill:
		return TargetLetGo
	}
	return TargetRestore
}
