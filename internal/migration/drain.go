// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"godwit.dev/godwit/api/v1alpha1"
)

// drainTaints are the taints by which those who remove nodes say that one is about to
// be emptied, and who they are.
var drainTaints = map[string]string{
	"ToBeDeletedByClusterAutoscaler": "cluster-autoscaler",
	"karpenter.sh/disrupted":         "Karpenter",
	"karpenter.sh/disruption":        "Karpenter",
	"medik8s.io/drain":               "node maintenance",
	"kubevirt.io/drain":              "node maintenance",
}

// Drain says that a node is being emptied.
type Drain struct {
	// By says who empties it, for people.
	By string
}

// DrainOf says whether pods are to leave a node without waiting for evictions: it
// takes no new pods, and carries the mark of somebody who empties nodes. A node that
// is only cordoned may be so for any reason. nil for a node that is not drained.
func DrainOf(node *corev1.Node) *Drain {
	if node == nil {
		return nil
	}
	d := &Drain{}
	for _, t := range node.Spec.Taints {
		// These taints keep pods away by themselves; cluster-autoscaler does not
		// cordon besides, unless it is told to.
		if by := drainTaints[t.Key]; by != "" && (node.Spec.Unschedulable || t.Effect == corev1.TaintEffectNoSchedule || t.Effect == corev1.TaintEffectNoExecute) {
			d.By = by
			break
		}
	}
	if d.By == "" && node.Spec.Unschedulable && node.Annotations[v1alpha1.AnnotationDrain] == "true" {
		d.By = "annotation " + v1alpha1.AnnotationDrain
	}
	if d.By == "" {
		return nil
	}
	return d
}

// Karpenter's NodeClaim, which owns the Node, and the annotation on it that says when the
// node goes whatever is left on it: the claim's deletion and its terminationGracePeriod
// (pkg/apis/v1/labels.go of sigs.k8s.io/karpenter).
const (
	karpenterGroup       = "karpenter.sh"
	karpenterClaim       = "NodeClaim"
	karpenterTermination = karpenterGroup + "/nodeclaim-termination-timestamp"
)

// NodeClaimOf is the owner of a node that Karpenter has made and that is emptied; nil for
// every other one.
func NodeClaimOf(node *corev1.Node) *metav1.OwnerReference {
	if !Leaving(node) {
		return nil
	}
	for i, o := range node.OwnerReferences {
		if group, _, _ := strings.Cut(o.APIVersion, "/"); group == karpenterGroup && o.Kind == karpenterClaim {
			return &node.OwnerReferences[i]
		}
	}
	return nil
}

// DrainDeadline is when a node that is emptied has to be empty, as its annotation says,
// or its NodeClaim, the earlier of the two; zero when neither does. claim is nil for
// none.
func DrainDeadline(node *corev1.Node, claim metav1.Object) time.Time {
	if !Leaving(node) {
		return time.Time{}
	}
	said := []string{node.Annotations[v1alpha1.AnnotationDrainDeadline]}
	if claim != nil {
		said = append(said, claim.GetAnnotations()[karpenterTermination])
	}
	var first time.Time
	for _, text := range said {
		if at, err := time.Parse(time.RFC3339, text); err == nil && (first.IsZero() || at.Before(first)) {
			first = at
		}
	}
	return first
}

const (
	// hurry is the time below which a migration makes few rounds, and rush below which
	// it makes none: copying while the pod runs takes longer than it saves then.
	hurry, rush   = 2 * time.Minute, 20 * time.Second
	hurriedRounds = 2
	// shortestTimeout of a migration, when its deadline is past or about to be: what is
	// too late for the drain is not too late for the pod.
	shortestTimeout = time.Minute
)

// Hurry makes a policy fit the time that is left before a deadline: fewer rounds, and
// no giving up because of a long downtime. The migration also ends with the deadline.
func Hurry(p Policy, now, deadline time.Time) Policy {
	if deadline.IsZero() {
		return p
	}
	left := deadline.Sub(now)
	if timeout := max(left, shortestTimeout); p.Timeout == nil || timeout < p.Timeout.Duration {
		if p.Timeout != nil || timeout < DefaultTimeout {
			p.Timeout = &metav1.Duration{Duration: timeout.Round(time.Second)}
		}
	}
	rounds := int32(hurriedRounds)
	switch {
	case left >= hurry:
		return p
	case left < rush:
		rounds = 0
	}
	if p.PreCopy.MaxRounds == nil || *p.PreCopy.MaxRounds > rounds {
		p.PreCopy.MaxRounds = &rounds
	}
	p.PreCopy.OnStall = v1alpha1.OnStallStopAndCopy
	return p
}

// Leaving says whether a node is to be rid of its pods, as far as one can tell:
// cordoned, which is what kubectl drain begins with, or marked.
func Leaving(node *corev1.Node) bool {
	return node != nil && (node.Spec.Unschedulable || DrainOf(node) != nil)
}
