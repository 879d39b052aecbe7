// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"godwit.dev/godwit/api/v1alpha1"
)

// A pod whose name is its identity, or whose volumes only one node can have, cannot have
// its target beside it. While the source runs, a placeholder takes the target's place on
// its node. When the image set is verified and committed, the source is removed, its
// controller makes it again, or the manager for one that has none, and that pod is the
// target.

// SameName says whether the migration's target has the source's name.
func SameName(m *v1alpha1.Migration) bool { return m.Status.Handoff == v1alpha1.HandoffSameName }

// IsPlaceholder says whether what status.target names is only the placeholder.
func IsPlaceholder(m *v1alpha1.Migration) bool {
	p, t := m.Status.Placeholder, m.Status.Target
	return p != nil && t != nil && p.PodUID != "" && p.PodUID == t.PodUID
}

// MayFollow says whether another pod may take the place of what status.target names:
// nothing was restored into that one, nor is about to be.
func MayFollow(m *v1alpha1.Migration) bool {
	t := m.Status.Target
	return SameName(m) && m.Status.Phase == v1alpha1.PhaseReplacing && handover(m) == v1alpha1.HandoverCommitted &&
		t != nil && t.RestoreStartedAt == nil && t.RestoredAt == nil && t.TreeGoneAt == nil && t.State != v1alpha1.TargetRestored
}

// steerSameName decides about a pod that a StatefulSet creates under the name that a
// Migration moves.
func steerSameName(o SteerObservation) (SteerVerdict, string) {
	m := o.Migration
	phase := m.Status.Phase
	switch {
	case o.Pod.Name != m.Spec.PodName, handover(m) == v1alpha1.HandoverAborted:
		return SteerPass, ""
	case o.DryRun:
		_, plain := o.Pod.Annotations[v1alpha1.AnnotationRehearsal]
		if !plain && (phase == v1alpha1.PhasePreCopying || phase == v1alpha1.PhaseSwitchingOver || phase == v1alpha1.PhaseReplacing) {
			return SteerTake, ""
		}
		return SteerPass, ""
	case phase == v1alpha1.PhaseReplacing && o.Target == nil && o.Pod.Labels[appsv1.ControllerRevisionHashLabelKey] != m.Status.Owner.Revision:
		return SteerHold, fmt.Sprintf("Migration %s restores the pod of this name, which was of another revision; take the change of the StatefulSet back until it has", m.Name)
	case phase == v1alpha1.PhaseReplacing && MayFollow(m):
		return SteerTake, ""
	case phase == v1alpha1.PhaseSwitchingOver || phase == v1alpha1.PhaseReplacing:
		return SteerHold, fmt.Sprintf("Migration %s moves the pod of this name, and it is not decided yet where it goes on; try again", m.Name)
	}
	return SteerPass, ""
}

// StatefulSetFacts are the facts of a StatefulSet, nil when it does not exist. pods
// are those of its namespace, nil when they were not looked at.
func StatefulSetFacts(f OwnerFacts, set *appsv1.StatefulSet, podName string, pods []corev1.Pod) OwnerFacts {
	if set == nil || set.DeletionTimestamp != nil {
		f.Gone = true
		return f
	}
	seen := set.Status.ObservedGeneration >= set.Generation
	f.Superseded = seen && f.Revision != "" && set.Status.UpdateRevision != "" && f.Revision != set.Status.UpdateRevision
	ordinal, first := ordinalOf(podName), int32(0)
	if set.Spec.Ordinals != nil {
		first = set.Spec.Ordinals.Start
	}
	switch {
	case ordinal < first || ordinal >= first+replicas(set.Spec.Replicas):
		f.Unsettled = fmt.Sprintf("StatefulSet %q does not want pod %q any more", set.Name, podName)
	case !seen, set.Status.Replicas != replicas(set.Spec.Replicas):
		f.Unsettled = fmt.Sprintf("StatefulSet %q is being scaled", set.Name)
	case f.Superseded, set.Status.CurrentRevision != set.Status.UpdateRevision:
		f.Unsettled = fmt.Sprintf("StatefulSet %q is being rolled out, or only a part of it is", set.Name)
	case set.Spec.PodManagementPolicy != appsv1.ParallelPodManagement:
		// It makes no pod before those with lower numbers are there and ready.
		if other := notReadyBefore(set, ordinal, pods); other != "" {
			f.Unsettled = fmt.Sprintf("pod %q is not ready, and StatefulSet %q makes no later one before it is (podManagementPolicy)", other, set.Name)
		}
	}
	return f
}

// ordinalOf is the number at the end of a StatefulSet's pod's name; -1 without one.
func ordinalOf(name string) int32 {
	i := strings.LastIndex(name, "-")
	n, err := strconv.ParseInt(name[i+1:], 10, 32)
	if i < 0 || err != nil {
		return -1
	}
	return int32(n)
}

func notReadyBefore(set *appsv1.StatefulSet, ordinal int32, pods []corev1.Pod) string {
	for i := range pods {
		p := &pods[i]
		ref := metav1.GetControllerOf(p)
		if ref == nil || ref.UID != set.UID || ordinalOf(p.Name) >= ordinal {
			continue
		}
		ready := slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
		})
		if !ready || p.DeletionTimestamp != nil {
			return p.Name
		}
	}
	return ""
}

// decideSameName decides for a pod that keeps its name and is committed.
func decideSameName(o Observation) Decision {
	m := o.Migration
	if m.Status.Phase != v1alpha1.PhaseReplacing {
		return decideReplacement(o)
	}
	l := sameNameLost(o)
	waiting := func(format string, args ...any) Decision {
		message := "committed: " + fmt.Sprintf(format, args...) + failedRestores(m)
		if l != nil {
			message += ". " + l.Known + ". " + sameNameAdvice(m, l)
		}
		return Decision{Action: Wait, Lost: l, Message: message}
	}
	switch {
	case o.Source.Exists && !o.Source.Deleting && forgotten(o):
		return waiting("the source pod is not removed")
	case o.Source.Exists && !o.Source.Deleting:
		return Decision{Action: DeleteSource, Message: "committed: removing the source pod, so that its name is free"}
	case o.Source.Exists:
		return waiting("the source pod is being removed, so that its name is free")
	case o.Target.Exists && o.Placeholder.Exists && !o.Placeholder.Deleting:
		return Decision{Action: DeletePlaceholder, Message: "committed: pod " + m.Spec.PodName + " is there again; removing the placeholder"}
	case !o.Target.Exists && !o.Owner.owned():
		if !MayFollow(m) || o.Usurped || !o.Placeholder.Exists {
			return waiting("pod %s is not there", m.Spec.PodName)
		}
		d := waiting("making pod %s again", m.Spec.PodName)
		d.Action = MakeAgain
		return d
	case !o.Target.Exists:
		d := waiting("%s is to make pod %s again%s", o.Owner, m.Spec.PodName, ownerTrouble(o.Owner))
		d.RequeueAfter = ownerPoll
		return d
	case m.Status.Target.State == v1alpha1.TargetRestored && m.Status.Target.TreeGoneAt == nil && o.Target.Started:
		// Whatever has become of its node since: nothing is frozen that could go on instead.
		return advance(v1alpha1.PhaseCompleting, "the pod runs on the target")
	case o.Target.Unschedulable != "":
		return waiting("pod %s waits for its node: %s", m.Spec.PodName, o.Target.Unschedulable)
	}
	return waiting("the target restores pod %s", m.Spec.PodName)
}

// forgotten: of a pod that the manager is to make again nothing is left that says what it
// was.
func forgotten(o Observation) bool {
	return !o.Owner.owned() && !o.Target.Exists && !o.Placeholder.Exists && MayFollow(o.Migration)
}

// decideReplacement decides, with the source still frozen, whether it is to be given
// up. Nothing has been restored yet: it can still go on.
func decideReplacement(o Observation) Decision {
	m := o.Migration
	back := func(reason, format string, args ...any) Decision {
		f := &v1alpha1.Failure{Reason: reason, Message: fmt.Sprintf(format, args...)}
		return Decision{Action: Reclaim, Phase: v1alpha1.PhaseRollingBack, Failure: f, Message: "rolling back: " + f.Message}
	}
	gone := o.TargetNode.gone(m.Status.Target)
	switch {
	case !o.Source.Exists || o.Source.Deleting:
		// Somebody has removed it; there is nothing to go back to.
	case gone != "":
		return back(v1alpha1.ReasonTargetNodeLost, "the target's node was lost before the pod was restored: %s", gone)
	case !o.Owner.owned() && !o.Target.Exists:
		return back(v1alpha1.ReasonTargetPodGone, "the placeholder was removed by force, and with it what pod %s is to be made again from", m.Spec.PodName)
	case o.Owner.Gone || o.Owner.Changed:
		return back(v1alpha1.ReasonOwnerChanged, "%s is gone, or the pod does not belong to it any more, so nobody would make the pod again", o.Owner)
	case o.Owner.Superseded:
		return back(v1alpha1.ReasonRolloutInProgress, "a rollout of %s has begun, which replaces the pod; try again when it has ended", o.Owner)
	case o.Owner.Unsettled != "":
		return back(v1alpha1.ReasonOwnerChanged, "the pod would not be made again at once: %s; try again when that is over", o.Owner.Unsettled)
	case o.TargetNode.Known && o.TargetNode.NotReady != "":
		l := &Lost{Reason: v1alpha1.ReasonTargetNodeNotReady, Known: known(o)}
		return Decision{Action: Wait, Lost: l, Message: fmt.Sprintf("committed, but the target's node does not answer, and source pod %q stays frozen: %s. %s", m.Spec.PodName, l.Known, advice(o, l))}
	}
	return advance(v1alpha1.PhaseReplacing, "committed: the source pod is removed, and made again on the target")
}

// sameNameLost says why the restore of a pod whose source is given up cannot go on by
// itself; nil when it can.
func sameNameLost(o Observation) *Lost {
	t := o.Migration.Status.Target
	switch gone := o.TargetNode.gone(t); {
	case gone != "":
		return &Lost{Reason: v1alpha1.ReasonTargetNodeLost, NodeGone: true, Known: known(o)}
	case o.TargetNode.Known && o.TargetNode.NotReady != "":
		return &Lost{Reason: v1alpha1.ReasonTargetNodeNotReady, Known: known(o)}
	case t != nil && t.TreeGoneAt != nil:
		return &Lost{Reason: v1alpha1.ReasonTargetPodGone, Known: known(o)}
	case forgotten(o) && !o.Usurped:
		return &Lost{Reason: v1alpha1.ReasonTargetPodGone, Known: "the placeholder was removed by force, and with it what the pod is to be made again from"}
	case o.Usurped:
		return &Lost{Reason: v1alpha1.ReasonReplacementNotSteered, Known: fmt.Sprintf("there is a pod %s that was started afresh", o.Migration.Spec.PodName)}
	}
	return nil
}

func sameNameAdvice(m *v1alpha1.Migration, l *Lost) string {
	giveUp := fmt.Sprintf("“kubectl migrate resolve %s -n %s --target --force” gives up what is in the images: ", m.Name, m.Namespace)
	if m.Status.Owner == nil {
		giveUp += "nothing makes the pod again then, and one that is there starts from its image"
	} else {
		giveUp += "the pod then starts from its image"
	}
	switch l.Reason {
	case v1alpha1.ReasonReplacementNotSteered:
		return "Delete that pod: the next one of its name is restored"
	case v1alpha1.ReasonTargetNodeNotReady:
		return "The images are kept, and restored when the node is back. Else: " + giveUp
	case v1alpha1.ReasonTargetPodGone:
		if m.Status.Target.TreeGoneAt == nil {
			return "The images are kept. " + giveUp
		}
	}
	return "The images are kept, and not restored again, for the pod may have run. " + giveUp
}

func failedRestores(m *v1alpha1.Migration) string {
	t := m.Status.Target
	if t == nil || t.FailedRestores == 0 {
		return ""
	}
	s := fmt.Sprintf("; %d restores have failed, and it is tried again", t.FailedRestores)
	if t.Failure != nil {
		s += ": " + t.Failure.Message
	}
	return s
}

func ownerTrouble(f OwnerFacts) string {
	switch {
	case f.Gone:
		return ", and is gone or being deleted"
	case f.Unsettled != "":
		return ", and: " + f.Unsettled
	}
	return ""
}
