// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"godwit.dev/godwit/api/v1alpha1"
)

// Kinds that make a replacement under a name of its own for a pod that they have
// lost.
const (
	KindReplicaSet = "ReplicaSet"
	KindJob        = "Job"
)

// KindStatefulSet makes a pod again under the name that it has lost.
const KindStatefulSet = "StatefulSet"

// Of pods that are equally far, a ReplicaSet removes the one with the lowest
// pod-deletion-cost first.
const (
	neverFirst  = "2147483647"
	alwaysFirst = "-2147483647"
)

// Release is what was taken from a released pod. It is kept in the pod's annotation
// AnnotationRelease, so that whoever finds the pod can give it back.
type Release struct {
	// Migration is the UID of the Migration that has released the pod.
	Migration types.UID `json:"migration"`
	// Owner is the reference to the controller.
	Owner metav1.OwnerReference `json:"owner"`
	// Labels that were changed, with their values before.
	Labels map[string]string `json:"labels"`
	// Finalizers that were removed.
	Finalizers []string `json:"finalizers,omitempty"`
	// Returned: the pod belongs to its controller again, which may not have removed
	// the surplus yet. Until then the pod is kept from being the one to go;
	// DeletionCost is what its annotation said before, nil when it had none.
	Returned     bool    `json:"returned,omitempty"`
	DeletionCost *string `json:"deletionCost,omitempty"`
}

// ReleaseOf reads the annotation; nil when the pod has none that can be read.
func ReleaseOf(pod *corev1.Pod) *Release {
	raw, ok := pod.Annotations[v1alpha1.AnnotationRelease]
	if !ok {
		return nil
	}
	r := &Release{}
	if json.Unmarshal([]byte(raw), r) != nil || r.Owner.UID == "" {
		return nil
	}
	return r
}

// ReleasedBy is the Release of a pod if that Migration has released it.
func ReleasedBy(pod *corev1.Pod, m *v1alpha1.Migration) *Release {
	if pod == nil {
		return nil
	}
	if r := ReleaseOf(pod); r != nil && r.Migration == m.UID {
		return r
	}
	return nil
}

// Releasable says whether a pod can be released from a controller of that kind,
// which then makes a replacement.
func Releasable(ref *metav1.OwnerReference) bool {
	group, _, _ := strings.Cut(ref.APIVersion, "/")
	return ref.Kind == KindReplicaSet && group == appsv1.GroupName || ref.Kind == KindJob && group == batchv1.GroupName
}

// Movable says whether a pod of a controller of that kind can be moved.
func Movable(ref *metav1.OwnerReference) bool {
	group, _, _ := strings.Cut(ref.APIVersion, "/")
	return Releasable(ref) || ref.Kind == KindStatefulSet && group == appsv1.GroupName
}

// ReleaseLabels are the labels that have to be changed so that the controller's
// selector does not find the pod any more. Of labels that mean nothing to anybody
// else all are taken; else one that no selector in used mentions, so that Services,
// budgets and policies still find the pod. Empty when there is none.
func ReleaseLabels(pod *corev1.Pod, selector *metav1.LabelSelector, used map[string]bool) []string {
	if selector == nil {
		return nil
	}
	selecting := func(key string) bool {
		if _, ok := selector.MatchLabels[key]; ok {
			return true
		}
		return slices.ContainsFunc(selector.MatchExpressions, func(r metav1.LabelSelectorRequirement) bool {
			return r.Key == key && r.Operator == metav1.LabelSelectorOpIn
		})
	}
	var own, others []string
	released := false
	for key := range pod.Labels {
		switch {
		case OwnLabel(key):
			own = append(own, key)
			released = released || selecting(key)
		case selecting(key) && !used[key]:
			others = append(others, key)
		}
	}
	if released {
		slices.Sort(own)
		return own
	}
	slices.Sort(others)
	return others[:min(1, len(others))]
}

// legacyControllerUID is what the Job controller's label was called at first; it
// still sets both.
const legacyControllerUID = "controller-uid"

// OwnLabel says whether a label is one that controllers give to their pods to
// find them by, and that means nothing to anybody else.
func OwnLabel(key string) bool {
	switch key {
	case appsv1.DefaultDeploymentUniqueLabelKey, batchv1.ControllerUidLabel, legacyControllerUID:
		return true
	}
	return false
}

// operation of a JSON patch.
type operation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value,omitempty"`
}

// guarded begins a patch that is refused when the pod is another one, or was
// written since it was read.
func guarded(pod *corev1.Pod) []operation {
	return []operation{
		{"test", "/metadata/uid", pod.UID},
		{"test", "/metadata/resourceVersion", pod.ResourceVersion},
	}
}

func pointer(parts ...string) string {
	escape := strings.NewReplacer("~", "~0", "/", "~1")
	path := ""
	for _, p := range parts {
		path += "/" + escape.Replace(p)
	}
	return path
}

// list replaces a list of the metadata, or removes it with its last element.
func list[T any](name string, before, after []T) []operation {
	path := pointer("metadata", name)
	switch {
	case len(after) > 0:
		return []operation{{"add", path, after}}
	case len(before) > 0:
		return []operation{{"remove", path, nil}}
	}
	return nil
}

// annotate sets one annotation.
func annotate(pod *corev1.Pod, key, value string) operation {
	if pod.Annotations == nil {
		return operation{"add", pointer("metadata", "annotations"), map[string]string{key: value}}
	}
	return operation{"add", pointer("metadata", "annotations", key), value}
}

func encode(operations []operation) ([]byte, error) {
	body, err := json.Marshal(operations)
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	return body, nil
}

// ReleasePatch is the JSON patch that releases the pod from its controller: one
// write, which takes the labels, the reference and the finalizer that counts a
// Job's pod, and keeps in an annotation what they were.
func ReleasePatch(pod *corev1.Pod, m *v1alpha1.Migration, labels []string) ([]byte, error) {
	owner := metav1.GetControllerOf(pod)
	if owner == nil || len(labels) == 0 {
		return nil, fmt.Errorf("pod %s has no controller that it can be released from", pod.Name)
	}
	r := Release{Migration: m.UID, Owner: *owner, Labels: map[string]string{}}
	operations := guarded(pod)
	for _, key := range labels {
		r.Labels[key] = pod.Labels[key]
		operations = append(operations, operation{"replace", pointer("metadata", "labels", key), releasedLabel(m)})
	}
	owners := slices.DeleteFunc(slices.Clone(pod.OwnerReferences), func(o metav1.OwnerReference) bool { return o.UID == owner.UID })
	operations = append(operations, list("ownerReferences", pod.OwnerReferences, owners)...)
	if slices.Contains(pod.Finalizers, batchv1.JobTrackingFinalizer) {
		r.Finalizers = []string{batchv1.JobTrackingFinalizer}
		left := slices.DeleteFunc(slices.Clone(pod.Finalizers), func(f string) bool { return f == batchv1.JobTrackingFinalizer })
		operations = append(operations, list("finalizers", pod.Finalizers, left)...)
	}
	raw, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	return encode(append(operations, annotate(pod, v1alpha1.AnnotationRelease, string(raw))))
}

// releasedLabel is the value of a changed label: nobody selects it.
func releasedLabel(m *v1alpha1.Migration) string { return "released-" + nameSuffix(string(m.UID)) }

// ReturnPatch gives a released pod back, exactly as it was. The controller has one
// pod too many then and removes one: until that is done (SettlePatch), this one is
// marked as the last to go. Without an owner the pod gets its labels back and
// nothing else: a reference to a controller that is gone would have it collected.
func ReturnPatch(pod *corev1.Pod, r *Release, owner bool) ([]byte, error) {
	operations := guarded(pod)
	for key, value := range r.Labels {
		operations = append(operations, operation{"add", pointer("metadata", "labels", key), value})
	}
	if !owner {
		return encode(append(operations, operation{"remove", pointer("metadata", "annotations", v1alpha1.AnnotationRelease), nil}))
	}
	operations = append(operations, list("ownerReferences", pod.OwnerReferences, append(slices.Clone(pod.OwnerReferences), r.Owner))...)
	finalizers := slices.Clone(pod.Finalizers)
	for _, f := range r.Finalizers {
		if !slices.Contains(finalizers, f) {
			finalizers = append(finalizers, f)
		}
	}
	if len(finalizers) > len(pod.Finalizers) {
		operations = append(operations, list("finalizers", pod.Finalizers, finalizers)...)
	}
	returned := *r
	returned.Returned = true
	if cost, ok := pod.Annotations[corev1.PodDeletionCost]; ok {
		returned.DeletionCost = &cost
	}
	raw, err := json.Marshal(returned)
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	return encode(append(operations,
		annotate(pod, v1alpha1.AnnotationRelease, string(raw)), annotate(pod, corev1.PodDeletionCost, neverFirst)))
}

// SettlePatch removes the last trace of a release that was taken back.
func SettlePatch(pod *corev1.Pod, r *Release) ([]byte, error) {
	operations := append(guarded(pod), operation{"remove", pointer("metadata", "annotations", v1alpha1.AnnotationRelease), nil})
	switch current, ok := pod.Annotations[corev1.PodDeletionCost]; {
	case !ok || current != neverFirst: // somebody has set it meanwhile
	case r.DeletionCost == nil:
		operations = append(operations, operation{"remove", pointer("metadata", "annotations", corev1.PodDeletionCost), nil})
	default:
		operations = append(operations, annotate(pod, corev1.PodDeletionCost, *r.DeletionCost))
	}
	return encode(operations)
}

// MarkPatch makes a target the first of a ReplicaSet's pods to go.
func MarkPatch(pod *corev1.Pod) ([]byte, error) {
	return encode(append(guarded(pod), annotate(pod, corev1.PodDeletionCost, alwaysFirst)))
}

// TrackPatch gives a Job's pod the finalizer without which its end is not counted.
func TrackPatch(pod *corev1.Pod) ([]byte, error) {
	return encode(append(guarded(pod), list("finalizers", pod.Finalizers, append(slices.Clone(pod.Finalizers), batchv1.JobTrackingFinalizer))...))
}
