// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"godwit.dev/godwit/api/v1alpha1"
)

// lacks is what a placeholder does not have of the pod whose place it keeps, and what the
// pod is to have when it is made again. It is kept in the placeholder's annotation
// AnnotationPlaceholder: with the placeholder's own spec it is the whole pod.
type lacks struct {
	// Labels of the pod.
	Labels map[string]string `json:"labels,omitempty"`
	// Annotations by which the pod asks for its address.
	Annotations map[string]string `json:"annotations,omitempty"`
	// Claims of the volumes that only one node can have, by the volumes' names. Whoever may
	// change a pod's annotations can write here, and the manager makes a pod of it: it is
	// to be no way to any other kind of volume.
	Claims map[string]corev1.PersistentVolumeClaimVolumeSource `json:"claims,omitempty"`
}

// lackedBy reads the annotation.
func lackedBy(placeholder *corev1.Pod) (lacks, error) {
	var l lacks
	if err := json.Unmarshal([]byte(placeholder.Annotations[v1alpha1.AnnotationPlaceholder]), &l); err != nil {
		return l, fmt.Errorf("annotation %s of pod %s: %w", v1alpha1.AnnotationPlaceholder, placeholder.Name, err)
	}
	return l, nil
}

// BuildPlaceholder makes the pod that proves that the target's node can take the pod,
// and keeps its place there. It has none of its labels: no Service, no budget and no
// controller is to take it for one of theirs. Nor does it ask for the pod's address. Nor
// has it the named volumes, claims which the source's node has: it would wait for them as
// long as the source is there.
func BuildPlaceholder(source *corev1.Pod, m *v1alpha1.Migration, gateImage string, pullPolicy corev1.PullPolicy, hostnames, without []string) (*corev1.Pod, error) {
	pod := BuildTargetPod(source, m, gateImage, pullPolicy, hostnames)
	l := lacks{Labels: maps.Clone(source.Labels), Annotations: addressAnnotations(source, m)}
	delete(l.Labels, v1alpha1.LabelMigration)
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if c := v.PersistentVolumeClaim; c != nil && slices.Contains(without, v.Name) {
			if l.Claims == nil {
				l.Claims = map[string]corev1.PersistentVolumeClaimVolumeSource{}
			}
			l.Claims[v.Name] = *c
			v.VolumeSource = corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}
		}
	}
	raw, err := json.Marshal(l)
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	pod.Labels = map[string]string{v1alpha1.LabelMigration: string(m.UID)}
	pod.Annotations[v1alpha1.AnnotationPlaceholder] = string(raw)
	pod.Finalizers = []string{v1alpha1.FinalizerPlaceholder}
	return pod, nil
}

// IsHeld says whether the pod is a placeholder that is not to go before it is let go.
func IsHeld(pod *corev1.Pod) bool {
	return slices.Contains(pod.Finalizers, v1alpha1.FinalizerPlaceholder)
}

// LetGoPatch is the JSON patch by which a placeholder may go.
func LetGoPatch(pod *corev1.Pod) ([]byte, error) {
	left := slices.DeleteFunc(slices.Clone(pod.Finalizers), func(f string) bool { return f == v1alpha1.FinalizerPlaceholder })
	return encode(append(guarded(pod), list("finalizers", pod.Finalizers, left)...))
}

// PodAgain is the pod of no controller as its maker, which is the manager, makes it again:
// what SameNamePod then makes the target.
func PodAgain(placeholder *corev1.Pod, m *v1alpha1.Migration) (*corev1.Pod, error) {
	l, err := lackedBy(placeholder)
	if err != nil {
		return nil, err
	}
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: m.Namespace, Name: m.Spec.PodName, Labels: l.Labels}}, nil
}

// SameNamePod makes the pod that is created under the source's name the target: under its
// own name, what the placeholder keeps the place of, on the node that has committed. A
// placeholder that is no more is nil; then the pod is what its StatefulSet makes of it.
func SameNamePod(created, placeholder *corev1.Pod, m *v1alpha1.Migration, gateImage string, pullPolicy corev1.PullPolicy, hostname string) (*corev1.Pod, error) {
	like := created
	var l lacks
	if placeholder != nil {
		var err error
		if l, err = lackedBy(placeholder); err != nil {
			return nil, err
		}
		like = placeholder.DeepCopy()
		for i := range like.Spec.Volumes {
			v := &like.Spec.Volumes[i]
			if claim, ok := l.Claims[v.Name]; ok {
				v.VolumeSource = corev1.VolumeSource{PersistentVolumeClaim: &claim}
			}
		}
	}
	pod := BuildTargetPod(like, m, gateImage, pullPolicy, []string{hostname})
	pod.TypeMeta = created.TypeMeta
	meta := *created.ObjectMeta.DeepCopy()
	if meta.Labels == nil {
		meta.Labels = map[string]string{}
	}
	if o := m.Status.Owner; o != nil && o.Revision != "" {
		// A rollout that begins now finds what it has to replace.
		meta.Labels[appsv1.ControllerRevisionHashLabelKey] = o.Revision
	}
	meta.Labels[v1alpha1.LabelMigration] = string(m.UID)
	meta.Annotations = pod.Annotations
	// The address is nobody else's any more.
	maps.Copy(meta.Annotations, l.Annotations)
	maps.Copy(meta.Annotations, created.Annotations)
	if c := m.Status.Connections; c != nil {
		meta.Annotations[c.Annotation] = c.Value
	}
	meta.Annotations[v1alpha1.AnnotationMigration] = m.Namespace + "/" + m.Name
	pod.ObjectMeta = meta
	pod.Spec.Priority, pod.Spec.PreemptionPolicy = created.Spec.Priority, created.Spec.PreemptionPolicy
	keepModes(&pod.Spec)
	return pod, nil
}

// keepModes keeps kubelet from giving all files of the pod's volumes to its fsGroup when
// it mounts them: it did so on the source, and the processes that are restored have files
// open whose modes are to be what they were. It looks at the volume's root only then, which
// is right already, or empty.
func keepModes(spec *corev1.PodSpec) {
	if c := spec.SecurityContext; c != nil && c.FSGroup != nil {
		policy := corev1.FSGroupChangeOnRootMismatch
		c.FSGroupChangePolicy = &policy
	}
}
