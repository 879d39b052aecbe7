// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"godwit.dev/godwit/api/v1alpha1"
)

// TargetNode is what the API says of the target's node. It is looked at only
// after the commit: before it, a lost target is a timeout.
type TargetNode struct {
	// Known: it was looked for. The other fields mean nothing otherwise.
	Known bool
	// Exists, and then with this UID.
	Exists bool
	UID    types.UID
	// OutOfService: it has the taint node.kubernetes.io/out-of-service, by which
	// a person or a cloud says that the machine is off.
	OutOfService bool
	// NotReadySince is since when kubelet has not been Ready, NotReady why; zero
	// and empty while it is.
	NotReadySince time.Time
	NotReady      string
}

// TargetNodeOf reads a Node; nil means that there is none.
func TargetNodeOf(node *corev1.Node) TargetNode {
	if node == nil {
		return TargetNode{Known: true}
	}
	n := TargetNode{Known: true, Exists: true, UID: node.UID}
	for _, t := range node.Spec.Taints {
		n.OutOfService = n.OutOfService || t.Key == corev1.TaintNodeOutOfService
	}
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status != corev1.ConditionTrue {
			n.NotReadySince, n.NotReady = c.LastTransitionTime.Time, orNotYet(c.Reason)
		}
	}
	return n
}

// gone says what proves that nothing runs on the target's node any more; ""
// when nothing does. That a node does not answer proves nothing.
func (n TargetNode) gone(recorded *v1alpha1.TargetStatus) string {
	switch {
	case !n.Known || recorded == nil || recorded.NodeName == "":
		return ""
	case !n.Exists:
		return "Node " + recorded.NodeName + " was deleted"
	case recorded.NodeUID != "" && n.UID != recorded.NodeUID:
		return "Node " + recorded.NodeName + " was deleted and made anew"
	case n.OutOfService:
		return "node " + recorded.NodeName + " has the taint " + corev1.TaintNodeOutOfService
	}
	return ""
}

// Lost says why a committed target cannot be counted on any more.
type Lost struct {
	// Reason of the condition TargetLost.
	Reason string
	// Known is what is known of the target, for people.
	Known string
	// NodeGone: the reason is proof that nothing runs on the target's node.
	NodeGone bool
}

// lost says whether the target of a committed migration that is not confirmed
// yet is lost; nil when it is not.
func lost(o Observation) *Lost {
	t := o.Migration.Status.Target
	if t == nil {
		return nil
	}
	switch {
	case o.TargetNode.gone(t) != "":
		return &Lost{Reason: v1alpha1.ReasonTargetNodeLost, NodeGone: true, Known: known(o)}
	case o.TargetNode.Known && o.TargetNode.NotReady != "":
		return &Lost{Reason: v1alpha1.ReasonTargetNodeNotReady, Known: known(o)}
	case !o.Target.Exists, t.TreeGoneAt != nil:
		return &Lost{Reason: v1alpha1.ReasonTargetPodGone, Known: known(o)}
	}
	return nil
}

// targetRan says whether the target's copy has run, or may be taken to have
// run: then letting the source go on would undo what it did since.
func targetRan(o Observation) bool {
	t := o.Migration.Status.Target
	return o.Target.Started || t != nil && (t.State == v1alpha1.TargetRestored || t.RestoredAt != nil || t.StartedAt != nil || t.TreeGoneAt != nil)
}

// known puts what is known of the target into words. Times are those of the
// objects, so that the same facts make the same words.
func known(o Observation) string {
	m, n := o.Migration, o.TargetNode
	t := m.Status.Target
	if t == nil || t.PodUID == "" {
		return "there is no target pod yet"
	}
	var facts []string
	add := func(format string, args ...any) { facts = append(facts, fmt.Sprintf(format, args...)) }
	switch gone := n.gone(t); {
	case gone != "":
		add("%s", gone)
	case n.Known && n.NotReady != "":
		add("node %s is not Ready since %s (%s)", t.NodeName, stamp(n.NotReadySince), n.NotReady)
	case n.Known:
		add("node %s is Ready", t.NodeName)
	}
	switch {
	case !o.Target.Exists:
		add("target pod %s is gone", t.PodName)
	case o.Target.Deleting:
		add("target pod %s is being deleted", t.PodName)
	case o.Target.Started:
		add("kubelet has seen target pod %s run", t.PodName)
	default:
		add("kubelet has not seen target pod %s run", t.PodName)
	}
	if t.State == "" {
		add("its agent has reported nothing")
	} else {
		add("its agent last reported %s", t.State)
	}
	switch {
	case t.RestoredAt != nil:
		add("the processes were restored there at %s", stamp(t.RestoredAt.Time))
	case t.RestoreStartedAt != nil:
		add("the restore began at %s and was never reported done", stamp(t.RestoreStartedAt.Time))
	}
	switch {
	case t.TreeGoneAt != nil && t.RestoredAt == nil:
		add("its processes may have run there, and at %s nothing of them was left", stamp(t.TreeGoneAt.Time))
	case t.TreeGoneAt != nil:
		add("nothing of them was left there at %s", stamp(t.TreeGoneAt.Time))
	}
	return strings.Join(facts, "; ")
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// decideLost decides for a committed migration whose target is lost before it
// was confirmed.
func decideLost(o Observation, l *Lost) Decision {
	m := o.Migration
	if l.NodeGone && !targetRan(o) && o.Source.Exists {
		f := &v1alpha1.Failure{Reason: v1alpha1.ReasonTargetNodeLost,
			Message: "the target's node was lost before it had restored the pod: " + l.Known}
		return Decision{Action: Reclaim, Phase: v1alpha1.PhaseRollingBack, Failure: f, Message: "rolling back: " + f.Message}
	}
	if !o.Target.Exists && !o.Source.Exists {
		// Both were deleted by someone who may: nothing is left to move.
		return finish(&v1alpha1.Failure{Reason: v1alpha1.ReasonTargetPodGone, Message: "both pods were deleted after the commit"})
	}
	return Decision{Action: Wait, Lost: l, Message: fmt.Sprintf("committed, but the target is lost, and source pod %q stays frozen: %s. %s", m.Spec.PodName, l.Known, advice(o, l))}
}

// advice says what a person can do about a lost target.
func advice(o Observation, l *Lost) string {
	m := o.Migration
	resolve := fmt.Sprintf("“kubectl migrate resolve %s -n %s --source” lets the source go on, --target gives it up", m.Name, m.Namespace)
	switch {
	case targetRan(o):
		return "The pod has run on the target, or may have: what it did there is lost if the source goes on, so a person must choose: " + resolve
	case l.Reason == v1alpha1.ReasonTargetNodeNotReady:
		return fmt.Sprintf("If the node comes back its agent decides. If its machine is off, say so with the taint %s=nodeshutdown:NoExecute or by deleting the Node: then the source goes on by itself. Else choose: %s", corev1.TaintNodeOutOfService, resolve)
	}
	return "Its agent takes the commit back when it finds that it restored nothing. Else choose: " + resolve
}
