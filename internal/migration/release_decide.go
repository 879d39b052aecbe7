// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"fmt"
	"time"

	"godwit.dev/godwit/api/v1alpha1"
)

// ownerPoll is how often an owner that has to settle is looked at. A watch on all
// workload controllers of a cluster would cost more than this rare wait.
const ownerPoll = 2 * time.Second

// ownerState is how far the hand-over between the owner's pods is known to be.
func ownerState(m *v1alpha1.Migration) v1alpha1.OwnerState {
	if m.Status.Owner == nil {
		return ""
	}
	return m.Status.Owner.State
}

// decideRelease brings a pod with a workload controller to its target: once the
// source has converged it is released, and the controller makes the target itself.
// Before, there would only be more time for something to go wrong in.
func decideRelease(o Observation) Decision {
	s := o.Migration.Status.Source
	switch {
	case o.Owner.Released:
		return wait(o, fmt.Sprintf("%s; the pod is released from its %s, which is to make the target pod", preCopyMessage(s), o.Owner))
	case s == nil || s.State != v1alpha1.SourceConverged:
		return wait(o, preCopyMessage(s))
	case o.Owner.Unsettled != "":
		return waitForOwner(o, preCopyMessage(s))
	case ownerState(o.Migration) != v1alpha1.OwnerReleasing:
		return Decision{Action: AnnounceRelease, Message: fmt.Sprintf("%s; releasing the pod from its %s", preCopyMessage(s), o.Owner)}
	}
	return Decision{Action: ReleaseSource, Message: fmt.Sprintf("%s; releasing the pod from its %s", preCopyMessage(s), o.Owner)}
}

func waitForOwner(o Observation, message string) Decision {
	d := wait(o, message+"; waiting: "+o.Owner.Unsettled)
	d.RequeueAfter = min(d.RequeueAfter, ownerPoll)
	return d
}

// ownerInterrupts says why a hand-over between a controller's pods that has begun
// cannot go on.
func ownerInterrupts(o Observation) *v1alpha1.Failure {
	f := o.Owner
	fail := func(reason, format string, args ...any) *v1alpha1.Failure {
		return &v1alpha1.Failure{Reason: reason, Message: fmt.Sprintf(format, args...)}
	}
	switch {
	case !f.owned():
		return nil
	case f.Gone:
		return fail(v1alpha1.ReasonOwnerChanged, "the pod's %s is gone or being deleted", f)
	case f.Changed:
		return fail(v1alpha1.ReasonOwnerChanged, "the pod does not belong to %s any more", f)
	case f.Superseded:
		return fail(v1alpha1.ReasonRolloutInProgress, "a rollout has begun, which replaces the pods of %s; try again when it has ended", f)
	case f.Released && !o.Target.Exists && f.Has >= f.Wants:
		return fail(v1alpha1.ReasonReplacementNotSteered, "%s has the %d pods that it wants, and none of them is the target: it was scaled down, or the admission webhook was not reached when it replaced the released pod; see that the manager's webhooks answer, and try again", f, f.Wants)
	}
	return nil
}

// decideReturn undoes a release: the source is given back as soon as it goes on,
// and its controller, which then has one pod too many, removes the target. If it
// does not have to (it was scaled, or has removed another one), the manager does.
// ok is false when nothing of it is left to be done.
func decideReturn(o Observation, f *v1alpha1.Failure) (d Decision, ok bool) {
	if !o.Owner.owned() {
		return Decision{}, false
	}
	s := o.Migration.Status.Source
	goesOn := s != nil && (s.State == v1alpha1.SourceResumed || s.State == v1alpha1.SourceCleaned)
	surplus := !o.Owner.Gone && o.Owner.Has > o.Owner.Wants
	switch {
	case o.Owner.Released && o.Source.Exists && !goesOn:
		return Decision{Action: Wait, Failure: f, Message: "rolling back: the source pod is being let go on"}, true
	case o.Owner.Released && o.Source.Exists && o.Owner.TargetUnmarked && !o.Owner.Gone:
		// Another pod that is not ready may be another migration's target.
		return Decision{Action: MarkTarget, Failure: f, Message: "rolling back: the target is marked as the pod to be removed"}, true
	case o.Owner.Released && o.Source.Exists:
		return Decision{Action: ReturnSource, Failure: f, Message: fmt.Sprintf("rolling back: giving the source pod back to its %s", o.Owner)}, true
	case o.Owner.Returned && surplus, surplus && o.Target.Exists && !o.Target.Deleting && o.Source.Exists:
		return Decision{Action: Wait, Failure: f, RequeueAfter: ownerPoll,
			Message: fmt.Sprintf("rolling back: %s removes the pod that is too many", o.Owner)}, true
	case o.Owner.Returned && (!o.Target.Exists || o.Target.Deleting):
		return Decision{Action: SettleSource, Failure: f, Message: "rolling back: the source pod is its controller's again"}, true
	}
	return Decision{}, false
}
