// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"godwit.dev/godwit/api/v1alpha1"
)

// Unanswered says whether the Migration carries a request to resolve it that
// was not answered yet. One that was answered is never looked at again, however
// the situation changes: it has to be made anew.
func Unanswered(m *v1alpha1.Migration) bool {
	request, r := requested(m), m.Status.Resolution
	return request != "" && (r == nil || r.Closed || r.Request != request)
}

// requested is the annotation's value, as long as the status can hold it.
func requested(m *v1alpha1.Migration) v1alpha1.ResolveRequest {
	return v1alpha1.ResolveRequest(Shorten(m.Annotations[v1alpha1.AnnotationResolve], 64))
}

// answer answers a person's request once. With an accepted one goes what is to
// be done; a refused one changes nothing but the status.
func answer(o Observation) (*v1alpha1.Resolution, *Decision) {
	request := requested(o.Migration)
	r := &v1alpha1.Resolution{Request: request, Outcome: v1alpha1.ResolutionRefused, FieldManager: o.RequestedBy,
		Forced: request == v1alpha1.ResolveForceSource || request == v1alpha1.ResolveForceTarget,
		Time:   metav1.NewMicroTime(o.Now.UTC().Truncate(time.Microsecond))}
	if handover(o.Migration) == v1alpha1.HandoverCommitted {
		r.Known = known(o)
	}
	if r.Message = refusal(o, r); r.Message != "" {
		return r, nil
	}
	r.Outcome = v1alpha1.ResolutionAccepted
	how := "a person decided"
	if r.Forced {
		how = "a person decided by force"
	}
	var d Decision
	if request == v1alpha1.ResolveSource || request == v1alpha1.ResolveForceSource {
		f := &v1alpha1.Failure{Reason: v1alpha1.ReasonResolvedToSource, Message: how + " that the source goes on; " + r.Known}
		d = Decision{Action: Reclaim, Phase: v1alpha1.PhaseRollingBack, Failure: f, Message: "rolling back: " + f.Message}
	} else {
		d = advance(v1alpha1.PhaseCompleting, how+" that the target owns the pod; removing the source pod")
	}
	r.Message = d.Message
	d.Resolution = r
	return r, &d
}

// refusal says why a request cannot be carried out and what is missing; "" when
// it can.
func refusal(o Observation, r *v1alpha1.Resolution) string {
	m := o.Migration
	switch r.Request {
	case v1alpha1.ResolveSource, v1alpha1.ResolveTarget, v1alpha1.ResolveForceSource, v1alpha1.ResolveForceTarget:
	default:
		return fmt.Sprintf("%q is none of Source, Target, ForceSource, ForceTarget", r.Request)
	}
	switch {
	case handover(m) == v1alpha1.HandoverAborted:
		return "it is decided already: the source keeps the pod"
	case handover(m) != v1alpha1.HandoverCommitted:
		return "nothing is committed yet, so there is nothing to resolve: cancel the migration instead"
	case m.Status.Phase == v1alpha1.PhaseCompleting || Finished(m.Status.Phase):
		// The source pod may have been deleted on the strength of it.
		return "it is decided already: the target was confirmed and owns the pod"
	}
	switch r.Request {
	case v1alpha1.ResolveSource, v1alpha1.ResolveForceSource:
		if m.Status.Phase == v1alpha1.PhaseReplacing {
			return "the source was given up, so that the pod could be made again under its name: nothing is left there that could go on"
		}
		if !o.Source.Exists || o.Source.Deleting {
			return "the source pod is gone or being deleted: nothing is left there that could go on"
		}
		if r.Request == v1alpha1.ResolveSource {
			return missingForSource(o)
		}
	case v1alpha1.ResolveTarget:
		return missingForTarget(o)
	}
	return ""
}

// missingForSource: the source may go on when nothing can run on the target.
func missingForSource(o Observation) string {
	t := o.Migration.Status.Target
	if o.TargetNode.gone(t) != "" || t != nil && t.TreeGoneAt != nil {
		return "" // nor is anything begun any more once the agent has said that nothing is left
	}
	missing := "the target's agent has not reported that nothing is left of it"
	if o.Target.Exists {
		missing = "the target pod is not deleted, and " + missing
	}
	return "the pod could run twice: " + missing + "; and that its node is off nobody has said (with the taint node.kubernetes.io/out-of-service, or by deleting the Node). Known: " + known(o)
}

// missingForTarget: the source may be removed when kubelet has seen the target
// run, on a node that is still there.
func missingForTarget(o Observation) string {
	switch gone := o.TargetNode.gone(o.Migration.Status.Target); {
	case gone != "":
		return "nothing would be left of the pod: " + gone
	case !o.Target.Exists || o.Target.Deleting:
		return "nothing would be left of the pod: the target pod is gone or being deleted"
	case !o.Target.Started:
		return "nothing might be left of the pod: kubelet has not seen the target run. Known: " + known(o)
	}
	return ""
}
