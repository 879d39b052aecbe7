// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"godwit.dev/godwit/api/v1alpha1"
)

// HandoffFacts are all that decides whether a pod and its target can be there at the
// same time, or the one has to make way for the other.
type HandoffFacts struct {
	// Owner is the pod's workload controller; nil when it has none.
	Owner *metav1.OwnerReference
	// Volumes of the pod that only one node can have at a time and that are to be handed
	// over (spec.volumePolicy).
	Volumes []string
	// KeepConnections: the pod's TCP connections are to go on (spec.connections).
	KeepConnections bool
}

// HandoffOf says how the pod's name passes to its target. A reason for which both cannot
// be there at a time is one more line here; everything else follows from status.handoff.
func HandoffOf(f HandoffFacts) v1alpha1.Handoff {
	switch {
	case f.ofStatefulSet(): // which knows its pods by their names
	case len(f.Volumes) > 0: // which the source has to let go first
	case f.KeepConnections: // which need its address, and that exists once
	default:
		return ""
	}
	return v1alpha1.HandoffSameName
}

func (f HandoffFacts) ofStatefulSet() bool {
	return f.Owner != nil && f.Owner.Kind == KindStatefulSet && Movable(f.Owner)
}

// CheckHandoff returns what forbids that a pod which has to keep its name does so: who
// makes it again must be known, and make it under that name.
func CheckHandoff(f HandoffFacts, m *v1alpha1.Migration) []v1alpha1.Failure {
	var r refusals
	if HandoffOf(f) != v1alpha1.HandoffSameName {
		return nil
	}
	if f.Owner != nil && !f.ofStatefulSet() && f.KeepConnections {
		r.add(v1alpha1.ReasonNameNotKept, "connections need the pod's address, which the target cannot have beside it, so the pod has to be made again under its name, and %s %q makes pods under new ones; connections are kept of pods of StatefulSets and of those without a controller: use one of these, or set spec.connections to Close", f.Owner.Kind, f.Owner.Name)
	}
	if f.Owner != nil && !f.ofStatefulSet() && len(f.Volumes) > 0 {
		r.add(v1alpha1.ReasonVolumeNotPortable, "volume %s can only be mounted on one node, so its pod has to be made again under its name, and %s %q makes pods under new ones; volumePolicy Handoff is for pods of StatefulSets and for those without a controller: use one of these, or a ReadWriteMany claim", quoted(f.Volumes), f.Owner.Kind, f.Owner.Name)
	}
	if m.Spec.TargetPodName != "" {
		r.add(v1alpha1.ReasonOwnedPod, "the pod keeps its name; leave spec.targetPodName out")
	}
	return r
}

func quoted(names []string) string {
	list := make([]string, len(names))
	for i, n := range names {
		list[i] = fmt.Sprintf("%q", n)
	}
	return strings.Join(list, ", ")
}

// HandedOver returns the names of the pod's volumes that only one node can have at a time,
// and that are to follow it all the same. claims are the pod's PersistentVolumeClaims by
// name; CheckVolumes has found nothing against them.
func HandedOver(pod *corev1.Pod, claims map[string]Claim, policy v1alpha1.VolumePolicy) []string {
	var names []string
	if policy != v1alpha1.VolumePolicyHandoff {
		return nil
	}
	eachClaim(pod, func(volume, name string) {
		if c := claims[name]; c.Claim != nil && c.exclusive() {
			names = append(names, volume)
		}
	})
	return names
}

// CheckShared returns a refusal for each of the volumes whose claim another pod uses too:
// the node would not be rid of it when the source is gone. pods are those of the namespace.
func CheckShared(source *corev1.Pod, volumes []string, pods []corev1.Pod) []v1alpha1.Failure {
	var r refusals
	eachClaim(source, func(volume, claim string) {
		if !slices.Contains(volumes, volume) {
			return
		}
		for i := range pods {
			p := &pods[i]
			uses := slices.ContainsFunc(p.Spec.Volumes, func(v corev1.Volume) bool {
				return v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ClaimName == claim
			})
			if uses && p.UID != source.UID && p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed {
				r.add(v1alpha1.ReasonVolumeNotPortable, "volume %q: claim %q is used by pod %q too, and cannot be taken from the node as long as it is; only claims of one pod follow it (volumePolicy Handoff)", volume, claim, p.Name)
				return
			}
		}
	})
	return r
}

// Attachable leaves of the nodes those to which the pod's volumes may be attached, and
// says of the others why they may not. Where a volume is mounted by the target itself the
// scheduler sees to that.
func Attachable(nodes []NodeInfo, claims map[string]Claim) (able []NodeInfo, failure *v1alpha1.Failure) {
	why := map[string]string{}
	for _, n := range nodes {
		if v := notAttachable(n, claims); v != "" {
			why[n.Name] = fmt.Sprintf("PersistentVolume %q cannot be attached there, by its node affinity", v)
			continue
		}
		able = append(able, n)
	}
	if len(able) == 0 && len(nodes) > 0 {
		return nil, &v1alpha1.Failure{Reason: v1alpha1.ReasonNoEligibleNode, Message: "no other node can take the pod with its volumes" + whyNot(why)}
	}
	return able, nil
}

// notAttachable names a volume that must not be attached to the node; "" when all may. What
// cannot be understood of its affinity matches nothing, as for the scheduler.
func notAttachable(n NodeInfo, claims map[string]Claim) string {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.Name, Labels: n.Labels}}
	var bad []string
	for _, c := range claims {
		if c.Volume == nil || c.Volume.Spec.NodeAffinity == nil || c.Volume.Spec.NodeAffinity.Required == nil {
			continue
		}
		if ok, err := nodeaffinity.NewLazyErrorNodeSelector(c.Volume.Spec.NodeAffinity.Required).Match(node); err != nil || !ok {
			bad = append(bad, c.Volume.Name)
		}
	}
	if len(bad) == 0 {
		return ""
	}
	return slices.Min(bad)
}
