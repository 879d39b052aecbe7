// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"godwit.dev/godwit/api/v1alpha1"
)

// SteerVerdict says what becomes of a pod that a workload controller creates.
type SteerVerdict string

const (
	// SteerPass: it is none of this Migration's business.
	SteerPass SteerVerdict = "Pass"
	// SteerTake: it becomes the Migration's target.
	SteerTake SteerVerdict = "Take"
	// SteerHold: it must not be created now. The controller would make a second
	// replacement for a pod that is being given back to it, or whose replacement
	// has not been counted yet; it tries again.
	SteerHold SteerVerdict = "Hold"
)

// SteerObservation is what Steer looks at, all of it as the API server has it now.
type SteerObservation struct {
	// Migration whose status.owner is the controller of the pod that is created.
	Migration *v1alpha1.Migration
	// Source is its source pod, Target the pod that has its target's name; nil when
	// they do not exist.
	Source, Target *corev1.Pod
	// Pod that is created.
	Pod *corev1.Pod
	// Full: its controller has all the pods that it wants.
	Full bool
	// DryRun: nothing is stored.
	DryRun bool
}

// Steer decides about a pod that the Migration's owner creates. Which pod is
// the target is settled by the name, which the webhook gives it and which the API
// server gives to one pod only: of two that are taken at the same time one is
// refused and made again, and then the other Migration's, or nobody's.
func Steer(o SteerObservation) (verdict SteerVerdict, why string) {
	m := o.Migration
	ref := metav1.GetControllerOf(o.Pod)
	if m.Status.Owner != nil && ref != nil && ref.UID == m.Status.Owner.UID && SameName(m) {
		return steerSameName(o)
	}
	if m.Status.Owner == nil || ref == nil || ref.UID != m.Status.Owner.UID || o.Source != nil && otherIndex(o.Source, o.Pod) {
		return SteerPass, ""
	}
	hold := fmt.Sprintf("Migration %s moves a pod of this %s, and its replacement is not decided yet; try again", m.Name, ref.Kind)
	released := ReleasedBy(o.Source, m)
	takes := m.Status.Phase == v1alpha1.PhasePreCopying && m.Status.Handover == nil && !CancelRequested(m) &&
		(m.Status.Target == nil || m.Status.Target.PodUID == "") && o.Target == nil
	announced := ownerState(m) == v1alpha1.OwnerReleasing || ownerState(m) == v1alpha1.OwnerReleased
	switch {
	case takes && announced && o.Source != nil && (o.DryRun || released != nil && !released.Returned):
		return SteerTake, ""
	case o.DryRun:
		return SteerPass, ""
	case o.Full:
		// It has not seen yet that the source was given back, or that it has its target.
		return SteerHold, fmt.Sprintf("this %s has the pods that it wants, since Migration %s has given one back; try again", ref.Kind, m.Name)
	case released == nil, released.Returned, m.Status.Phase == v1alpha1.PhaseSucceeded:
		return SteerPass, ""
	case Finished(m.Status.Phase):
		return SteerHold, hold // released too late, and about to be given back
	case m.Status.Phase == v1alpha1.PhaseCompleting && !uncounted(o.Target):
		return SteerPass, ""
	case o.Target != nil && active(o.Target):
		return SteerPass, "" // it has its replacement and wants one more pod
	}
	return SteerHold, hold
}

// otherIndex says whether two pods of an Indexed Job are not interchangeable.
func otherIndex(a, b *corev1.Pod) bool {
	return a.Annotations[batchv1.JobCompletionIndexAnnotation] != b.Annotations[batchv1.JobCompletionIndexAnnotation]
}

// uncounted: a Job's pod that has ended without its Job's knowing.
func uncounted(target *corev1.Pod) bool {
	if target == nil || active(target) {
		return false
	}
	ref := metav1.GetControllerOf(target)
	return ref != nil && ref.Kind == KindJob && !slices.Contains(target.Finalizers, batchv1.JobTrackingFinalizer)
}

// SteerPod makes the pod that a workload controller creates the target: what
// BuildTargetPod makes of the source, as this controller's pod.
func SteerPod(created, source *corev1.Pod, m *v1alpha1.Migration, gateImage string, pullPolicy corev1.PullPolicy, hostnames []string) *corev1.Pod {
	pod := BuildTargetPod(source, m, gateImage, pullPolicy, hostnames)
	pod.TypeMeta = created.TypeMeta
	meta := *created.ObjectMeta.DeepCopy()
	meta.Name = pod.Name
	meta.Labels, meta.Annotations = pod.Labels, pod.Annotations
	// By the controller's own labels and annotations it knows the pod.
	maps.Copy(meta.Labels, created.Labels)
	if meta.Annotations == nil {
		meta.Annotations = map[string]string{}
	}
	maps.Copy(meta.Annotations, created.Annotations)
	meta.Labels[v1alpha1.LabelMigration] = string(m.UID)
	meta.Annotations[v1alpha1.AnnotationMigration] = m.Namespace + "/" + m.Name
	// A Job does not count it before it is confirmed: a restore that fails is no
	// failure of the Job's.
	meta.Finalizers = slices.DeleteFunc(meta.Finalizers, func(f string) bool { return f == batchv1.JobTrackingFinalizer })
	if len(meta.Finalizers) == 0 {
		meta.Finalizers = nil
	}
	pod.ObjectMeta = meta
	withoutAddresses(pod, m)
	pod.Spec.Priority, pod.Spec.PreemptionPolicy = created.Spec.Priority, created.Spec.PreemptionPolicy
	return pod
}

// IsTarget says whether a pod that is created is what the Migration's status
// announces; nothing else may call itself its target.
func IsTarget(m *v1alpha1.Migration, pod *corev1.Pod) bool {
	ref := metav1.GetControllerOf(pod)
	if SameName(m) {
		return m.Status.Owner != nil && ref != nil && ref.UID == m.Status.Owner.UID && MayFollow(m) &&
			pod.Name == m.Spec.PodName && pod.Labels[v1alpha1.LabelMigration] == string(m.UID)
	}
	return m.Status.Owner != nil && ref != nil && ref.UID == m.Status.Owner.UID &&
		(ownerState(m) == v1alpha1.OwnerReleasing || ownerState(m) == v1alpha1.OwnerReleased) &&
		m.Status.Phase == v1alpha1.PhasePreCopying && m.Status.Handover == nil &&
		pod.Name == TargetPodName(m) && pod.Labels[v1alpha1.LabelMigration] == string(m.UID)
}

// SplitAnnotation takes the value of AnnotationMigration apart.
func SplitAnnotation(value string) (namespace, name string, err error) {
	namespace, name, ok := strings.Cut(value, "/")
	if !ok || namespace == "" || name == "" {
		return "", "", fmt.Errorf("%q is not the namespace and name of a Migration", value)
	}
	return namespace, name, nil
}
