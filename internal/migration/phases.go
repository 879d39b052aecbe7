// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"godwit.dev/godwit/api/v1alpha1"
)

// PodFacts is what the controller knows of one side's pod.
type PodFacts struct {
	// Exists, and then with this UID on this node ("" while unscheduled).
	Exists   bool
	UID      types.UID
	NodeName string
	// Deleting: it has a deletion timestamp.
	Deleting bool
	// Held: it is a placeholder, and goes when the manager lets it go.
	Held bool
	// Phase as kubelet reports it.
	Phase corev1.PodPhase
	// Started: kubelet has seen every application container of the target run (or
	// run and end), as it was restored.
	Started bool
	// Unschedulable holds the scheduler's message while it finds no node.
	Unschedulable string
}

// toBeRemoved says whether there is something left to be done to remove the pod.
func (p PodFacts) toBeRemoved() bool { return p.Exists && (!p.Deleting || p.Held) }

// Observation is everything Decide looks at.
type Observation struct {
	// Now by the controller's clock.
	Now time.Time
	// Migration as read; its spec has been defaulted.
	Migration *v1alpha1.Migration
	// Source is the pod the migration started with (by name, then by UID).
	Source PodFacts
	// Target is the pod named in status.target; of a pod that keeps its name the
	// placeholder, and in the phase Replacing the one that was made anew.
	Target PodFacts
	// Placeholder is the pod named in status.placeholder. Only looked at when
	// the pod keeps its name, and from the phase Replacing on.
	Placeholder PodFacts
	// Usurped: another pod that is not the target has the name that the target is to
	// have. Only looked at in the phase Replacing.
	Usurped bool
	// Owner is the pod's workload controller.
	Owner OwnerFacts
	// TargetNode is the target's node; looked at after the commit only.
	TargetNode TargetNode
	// RequestedBy is the field manager that wrote the annotation
	// godwit.dev/resolve, when there is one that was not answered.
	RequestedBy string
	// Conflict names another unfinished Migration of the same pod.
	Conflict string
	// Queued says what the migration waits for before it may begin; nil when it may.
	// Only looked at in the phase Pending.
	Queued *Queueing
	// DrainOver: the node that the migration was to empty is in use again. Only looked
	// at in the phase Pending.
	DrainOver bool
	// Blocked says why the migration cannot begin: the pod or the nodes. Only
	// looked at before the pre-copy.
	Blocked *v1alpha1.Failure
}

// Action is what the controller has to do.
type Action string

const (
	// Wait: nothing; some watched object will change, or RequeueAfter passes.
	Wait Action = "Wait"
	// Advance: write Decision.Phase.
	Advance Action = "Advance"
	// Abort: write phase RollingBack and handover Aborted in one write with a
	// resourceVersion precondition. Losing the race means: look again.
	Abort Action = "Abort"
	// Reclaim: write phase RollingBack and handover Committed → Aborted in one
	// write with a resourceVersion precondition: the target's node is known to be
	// gone, or a person decided so. Losing the race means: look again.
	Reclaim Action = "Reclaim"
	// CreateTarget creates the target pod.
	CreateTarget Action = "CreateTarget"
	// Arm rehearses how a pod that keeps its name is made anew, and then enters the phase.
	Arm Action = "Arm"
	// MakeAgain makes the pod of no controller again, under its name: the target.
	MakeAgain Action = "MakeAgain"
	// DeletePlaceholder deletes the placeholder, UID as precondition, so that its node has
	// room for the pod. What it says of the pod stays, in case it has to be made once more.
	DeletePlaceholder Action = "DeletePlaceholder"
	// DropPlaceholder lets the placeholder go, and deletes it, UID as precondition.
	DropPlaceholder Action = "DropPlaceholder"
	// AnnounceRelease writes that the source is about to be released from its
	// workload controller; from then on the webhook steers the replacement.
	AnnounceRelease Action = "AnnounceRelease"
	// ReleaseSource releases the source from its controller, which then makes the
	// target pod.
	ReleaseSource Action = "ReleaseSource"
	// MarkTarget makes the target the pod that its ReplicaSet removes first.
	MarkTarget Action = "MarkTarget"
	// ReturnSource gives the source back to its controller.
	ReturnSource Action = "ReturnSource"
	// SettleSource removes the last trace of a release that was taken back.
	SettleSource Action = "SettleSource"
	// CountTarget lets the target's Job count it.
	CountTarget Action = "CountTarget"
	// DeleteSource deletes the source pod, UID as precondition.
	DeleteSource Action = "DeleteSource"
	// DeleteTarget deletes the target pod, UID as precondition.
	DeleteTarget Action = "DeleteTarget"
)

// Decision is what the controller has to do, and what to tell the user.
type Decision struct {
	Action Action
	// Phase to enter, with Advance, Abort and Reclaim.
	Phase v1alpha1.MigrationPhase
	// Failure to record, with Abort, Reclaim and on the way to Failed or Cancelled.
	Failure *v1alpha1.Failure
	// Message for status.message.
	Message string
	// Lost: the target is lost, and nobody knows which side can go on.
	Lost *Lost
	// Queued says what it waits for before it may begin; nil when it does not.
	Queued *Queueing
	// Resolution is the answer to a person's request; nil when there is none.
	Resolution *v1alpha1.Resolution
	// RequeueAfter is when a deadline has to be looked at again; 0 for never.
	RequeueAfter time.Duration
}

// Finished says whether the phase is final.
func Finished(p v1alpha1.MigrationPhase) bool {
	switch p {
	case v1alpha1.PhaseSucceeded, v1alpha1.PhaseFailed, v1alpha1.PhaseCancelled:
		return true
	}
	return false
}

// CancelRequested says whether the user wants the migration to end.
func CancelRequested(m *v1alpha1.Migration) bool {
	return m.DeletionTimestamp != nil || m.Annotations[v1alpha1.AnnotationCancel] == "true"
}

// Decide says what the controller has to do next. The same observation always
// gives the same decision; every step may be repeated.
func Decide(o Observation) Decision {
	if !Unanswered(o.Migration) || Finished(o.Migration.Status.Phase) {
		return decide(o)
	}
	r, accepted := answer(o)
	if accepted != nil {
		return *accepted
	}
	d := decide(o)
	d.Resolution = r
	return d
}

func decide(o Observation) Decision {
	m := o.Migration
	phase := m.Status.Phase
	switch handover(m) {
	case v1alpha1.HandoverCommitted:
		// From here the source may go on only when nothing can run on the target:
		// neither cancel nor timeout is looked at any more.
		return decideCommitted(o)
	case v1alpha1.HandoverAborted:
		if Finished(phase) {
			return Decision{Action: Wait}
		}
		return decideRollback(o)
	}

	if Finished(phase) {
		return Decision{Action: Wait}
	}
	if f := interrupted(o); f != nil {
		switch phase {
		case "", v1alpha1.PhasePending, v1alpha1.PhasePreparing:
			// Nothing was touched: no register to write, nothing to undo.
			return finish(f)
		}
		return Decision{Action: Abort, Phase: v1alpha1.PhaseRollingBack, Failure: f,
			Message: "rolling back: " + f.Message}
	}

	switch phase {
	case "":
		return advance(v1alpha1.PhasePending, "waiting to be looked at")
	case v1alpha1.PhasePending:
		if o.Owner.Unsettled != "" {
			return waitForOwner(o, "not begun")
		}
		if d := decideQueued(o); d != nil {
			return *d
		}
		return advance(v1alpha1.PhasePreparing, "checking whether the pod can be moved")
	case v1alpha1.PhasePreparing:
		return decidePreparing(o)
	case v1alpha1.PhasePreCopying:
		return decidePreCopying(o)
	case v1alpha1.PhaseSwitchingOver:
		return wait(o, "switching over: "+switchoverStep(m))
	case v1alpha1.PhaseRollingBack:
		// Entered together with the abort; without it the write was torn apart by
		// hand. Write it again.
		f := m.Status.Failure
		if f == nil {
			f = &v1alpha1.Failure{Reason: v1alpha1.ReasonCancelled, Message: "rolled back"}
		}
		return Decision{Action: Abort, Phase: v1alpha1.PhaseRollingBack, Failure: f, Message: "rolling back: " + f.Message}
	}
	return Decision{Action: Wait, Message: fmt.Sprintf("unknown phase %q", phase)}
}

func decidePreparing(o Observation) Decision {
	s := o.Migration.Status.Source
	if s == nil || s.State == "" {
		return wait(o, "the source node's agent checks whether the pod can be moved")
	}
	if o.Migration.Spec.DryRun {
		return Decision{Action: Advance, Phase: v1alpha1.PhaseSucceeded,
			Message: "dry run: the pod can be moved; nothing was touched"}
	}
	return advance(v1alpha1.PhasePreCopying, "copying memory while the pod runs")
}

func decidePreCopying(o Observation) Decision {
	s, t := o.Migration.Status.Source, o.Migration.Status.Target
	switch {
	case !o.Target.Exists && o.Owner.owned() && !SameName(o.Migration):
		return decideRelease(o)
	case !o.Target.Exists:
		return Decision{Action: CreateTarget, Message: "copying memory; creating the target pod"}
	case o.Target.Unschedulable != "":
		return wait(o, "copying memory; the target pod waits for a node: "+o.Target.Unschedulable)
	case t == nil || t.State != v1alpha1.TargetParked:
		return wait(o, preCopyMessage(s)+"; the target pod is being brought up")
	case s == nil || s.State != v1alpha1.SourceConverged:
		return wait(o, preCopyMessage(s))
	case s.Round != nil && t.VerifiedRounds < *s.Round:
		return wait(o, preCopyMessage(s)+"; the target reads the copied rounds")
	}
	if SameName(o.Migration) {
		if o.Owner.Unsettled != "" {
			return waitForOwner(o, preCopyMessage(s))
		}
		return Decision{Action: Arm, Phase: v1alpha1.PhaseSwitchingOver, Message: armedMessage}
	}
	return advance(v1alpha1.PhaseSwitchingOver, armedMessage)
}

const armedMessage = "armed: the pod is about to be frozen"

func decideCommitted(o Observation) Decision {
	m := o.Migration
	t := m.Status.Target
	if Finished(m.Status.Phase) {
		return Decision{Action: Wait}
	}
	if m.Status.Phase == v1alpha1.PhaseCompleting {
		switch {
		case o.Owner.TargetUncounted && o.Target.Exists:
			return Decision{Action: CountTarget, Message: "the pod runs on the target; its Job is told to count it"}
		case o.Placeholder.toBeRemoved():
			return Decision{Action: DropPlaceholder, Message: "the pod runs on the target; removing the placeholder"}
		case o.Source.Exists && !o.Source.Deleting:
			return Decision{Action: DeleteSource, Message: "the pod runs on the target; removing the source pod"}
		case o.Source.Exists:
			return Decision{Action: Wait, Message: "the pod runs on the target; the source pod is being removed"}
		case m.Status.Source == nil || m.Status.Source.State != v1alpha1.SourceCleaned:
			return Decision{Action: Wait, Message: "the pod runs on the target; the images are being removed"}
		}
		if r := m.Status.Resolution; r != nil && r.Outcome == v1alpha1.ResolutionAccepted && r.Forced {
			return advance(v1alpha1.PhaseSucceeded, "the source was removed by force; whether the pod runs on "+m.Status.Target.NodeName+" was not looked at")
		}
		return advance(v1alpha1.PhaseSucceeded, "the pod runs on "+m.Status.Target.NodeName)
	}
	if SameName(m) {
		return decideSameName(o)
	}
	// A target that was just lost is not confirmed: the frozen source may be all
	// that is left of the pod.
	if l := lost(o); l != nil {
		return decideLost(o, l)
	}
	if t != nil && t.State == v1alpha1.TargetRestored && o.Target.Started {
		return advance(v1alpha1.PhaseCompleting, "the pod runs on the target; removing the source pod")
	}
	if s := m.Status.Source; s != nil && s.Failure != nil && s.Failure.Reason == v1alpha1.ReasonSourceKilled {
		return Decision{Action: Wait, Message: "committed: the target restores the pod; " + s.Failure.Message}
	}
	return Decision{Action: Wait, Message: "committed: the target restores the pod"}
}

func handover(m *v1alpha1.Migration) v1alpha1.HandoverState {
	if m.Status.Handover == nil {
		return ""
	}
	return m.Status.Handover.State
}

func advance(p v1alpha1.MigrationPhase, message string) Decision {
	return Decision{Action: Advance, Phase: p, Message: message}
}

// finish ends a migration that did not happen.
func finish(f *v1alpha1.Failure) Decision {
	p := v1alpha1.PhaseFailed
	if f.Reason == v1alpha1.ReasonCancelled {
		p = v1alpha1.PhaseCancelled
	}
	return Decision{Action: Advance, Phase: p, Failure: f, Message: f.Message}
}

// wait waits for a change, at most until the migration's deadline.
func wait(o Observation, message string) Decision {
	return Decision{Action: Wait, Message: message, RequeueAfter: Deadline(o.Migration).Sub(o.Now) + time.Millisecond}
}

func switchoverStep(m *v1alpha1.Migration) string {
	s := m.Status.Source
	switch {
	case s == nil:
		return "armed"
	case s.State == v1alpha1.SourceReady:
		return "the final dump stands ready; the pod is about to be frozen"
	case s.State == v1alpha1.SourceFrozen && s.ProbeBudget != nil:
		return fmt.Sprintf("the pod is frozen, for %s at most since kubelet probes it; the last difference is being written", s.ProbeBudget.Switchover.Duration)
	case s.State == v1alpha1.SourceFrozen:
		return "the pod is frozen, the last difference is being written"
	case s.State == v1alpha1.SourceDumped:
		return "the image set is complete, the target verifies it"
	}
	return "the pod is about to be frozen"
}

func preCopyMessage(s *v1alpha1.SourceStatus) string {
	switch {
	case s == nil || s.Round == nil:
		return "copying memory"
	case s.State == v1alpha1.SourceConverged:
		return fmt.Sprintf("converged after %d rounds, %s dirty", *s.Round, s.Dirty)
	}
	return fmt.Sprintf("copying memory: %d rounds done, %s dirty", *s.Round, s.Dirty)
}

func convergenceMessage(s *v1alpha1.SourceStatus) string {
	if s.Convergence == nil {
		return ""
	}
	return s.Convergence.Message
}
