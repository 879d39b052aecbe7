// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/migration"
)

// ownerRef names the pod's workload controller: the recorded one, else the
// source's. nil when it has none that it can be released from.
func ownerRef(m *v1alpha1.Migration, source *corev1.Pod) *v1alpha1.OwnerStatus {
	if m.Status.Owner != nil {
		return m.Status.Owner
	}
	// A pod that was begun with has its owner recorded, or none.
	if source == nil || begun(m) {
		return nil
	}
	ref := metav1.GetControllerOf(source)
	if ref == nil || !migration.Movable(ref) {
		return nil
	}
	return &v1alpha1.OwnerStatus{Revision: source.Labels[appsv1.ControllerRevisionHashLabelKey],
		APIVersion: ref.APIVersion, Kind: ref.Kind, Name: ref.Name, UID: ref.UID, State: v1alpha1.OwnerAttached}
}

// observeOwner looks at the pod's workload controller. Controllers are read from
// the API server: a watch on all of a cluster's for a few reads would cost more
// than it saves.
func (r *MigrationReconciler) observeOwner(ctx context.Context, w *world, pods []corev1.Pod) error {
	ref := ownerRef(w.Migration, w.source)
	if ref == nil {
		return nil
	}
	w.owner = ref
	facts := migration.SourceOwner(w.Migration, w.source, w.target)
	owner, deployment, err := readOwner(ctx, r.APIReader, w.Migration.Namespace, ref)
	if err != nil {
		return err
	}
	w.ownerObject = owner
	judge := func(pods []corev1.Pod) {
		switch o := owner.(type) {
		case *appsv1.ReplicaSet:
			w.Owner = migration.ReplicaSetFacts(facts, o, deployment, pods)
		case *batchv1.Job:
			w.Owner = migration.JobFacts(facts, o, w.source, pods)
		case *appsv1.StatefulSet:
			w.Owner = migration.StatefulSetFacts(facts, o, w.Migration.Spec.PodName, pods)
		default:
			facts.Gone = true
			w.Owner = facts
		}
	}
	judge(pods)
	// That the replacement has been missed ends the migration: it is only believed
	// of the API server. The cache may count a pod that is no more.
	if w.Owner.Released && !w.Target.Exists && w.Owner.Has >= w.Owner.Wants && w.Migration.Status.Handover == nil {
		var live corev1.PodList
		if err := r.APIReader.List(ctx, &live, client.InNamespace(w.Migration.Namespace)); err != nil {
			return fmt.Errorf("list the pods of %s %s: %w", ref.Kind, ref.Name, err)
		}
		if w.target, err = r.targetPod(ctx, w.Migration); err != nil {
			return err
		}
		w.Target = podFacts(w.target)
		judge(live.Items)
	}
	return nil
}

// ownerBlocks says why the pod cannot be released from its controller.
func (r *MigrationReconciler) ownerBlocks(ctx context.Context, w *world) (*v1alpha1.Failure, error) {
	if w.Owner.Gone {
		return &v1alpha1.Failure{Reason: v1alpha1.ReasonOwnerChanged,
			Message: fmt.Sprintf("the pod's %s is gone or being deleted, and the pod with it", w.Owner)}, nil
	}
	if w.owner.Kind == migration.KindStatefulSet {
		return nil, nil
	}
	_, failure, err := r.releaseLabels(ctx, w.source, w.ownerObject)
	return failure, err
}

// podsBeside lists the pods of the Migration's namespace, if they matter: whoever
// looks for the target afterwards finds it, if it is among them.
func (r *MigrationReconciler) podsBeside(ctx context.Context, m *v1alpha1.Migration) ([]corev1.Pod, error) {
	if m.Status.Owner == nil || !begun(m) {
		return nil, nil
	}
	var list corev1.PodList
	if err := r.Client.List(ctx, &list, client.InNamespace(m.Namespace)); err != nil {
		return nil, fmt.Errorf("list the pods: %w", err)
	}
	return list.Items, nil
}

// OwnerIsFull says whether the workload controller of a pod that is being created
// has all the pods that it wants already, all read from the API server: then it
// acts on what was true a moment ago.
func OwnerIsFull(ctx context.Context, live client.Reader, ref *v1alpha1.OwnerStatus, pod *corev1.Pod) (bool, error) {
	if ref.Kind == migration.KindStatefulSet {
		return false, nil // it has a name for each
	}
	owner, deployment, err := readOwner(ctx, live, pod.Namespace, ref)
	if err != nil || owner == nil {
		return false, err
	}
	var pods corev1.PodList
	if err := live.List(ctx, &pods, client.InNamespace(pod.Namespace)); err != nil {
		return false, fmt.Errorf("list the pods of %s %s: %w", ref.Kind, ref.Name, err)
	}
	var facts migration.OwnerFacts
	switch o := owner.(type) {
	case *appsv1.ReplicaSet:
		facts = migration.ReplicaSetFacts(facts, o, deployment, pods.Items)
	case *batchv1.Job:
		facts = migration.JobFacts(facts, o, pod, pods.Items)
	}
	return !facts.Gone && facts.Has >= facts.Wants, nil
}

// readOwner reads a workload controller, and a ReplicaSet's Deployment; what does
// not exist is nil.
func readOwner(ctx context.Context, live client.Reader, namespace string, ref *v1alpha1.OwnerStatus) (client.Object, *appsv1.Deployment, error) {
	if ref.Kind == migration.KindJob {
		job := &batchv1.Job{}
		found, err := readLive(ctx, live, namespace, ref.Name, ref.UID, job)
		if err != nil || !found {
			return nil, nil, err
		}
		return job, nil, nil
	}
	if ref.Kind == migration.KindStatefulSet {
		set := &appsv1.StatefulSet{}
		found, err := readLive(ctx, live, namespace, ref.Name, ref.UID, set)
		if err != nil || !found {
			return nil, nil, err
		}
		return set, nil, nil
	}
	rs := &appsv1.ReplicaSet{}
	found, err := readLive(ctx, live, namespace, ref.Name, ref.UID, rs)
	if err != nil || !found {
		return nil, nil, err
	}
	above := metav1.GetControllerOf(rs)
	if above == nil || above.Kind != "Deployment" || above.APIVersion != appsv1.SchemeGroupVersion.String() {
		return rs, nil, nil
	}
	deployment := &appsv1.Deployment{}
	found, err = readLive(ctx, live, namespace, above.Name, above.UID, deployment)
	if err != nil || !found {
		// Its ReplicaSet follows it, or is an orphan.
		return rs, nil, err
	}
	return rs, deployment, nil
}

// readLive reads an object, and says whether it is the one meant.
func readLive(ctx context.Context, live client.Reader, namespace, name string, uid types.UID, o client.Object) (bool, error) {
	switch err := live.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, o); {
	case apierrors.IsNotFound(err):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("read %T %s: %w", o, name, err)
	}
	return o.GetUID() == uid, nil
}

// followOwner records the pod's workload controller and how far the hand-over
// between its pods has come.
func followOwner(s *v1alpha1.MigrationStatus, w *world, d migration.Decision) {
	if w.owner == nil {
		return
	}
	if s.Owner == nil {
		s.Owner = w.owner.DeepCopy()
		if s.Owner.Kind != migration.KindStatefulSet {
			s.Owner.Revision = ""
		}
	}
	aborted := s.Handover != nil && s.Handover.State == v1alpha1.HandoverAborted
	o := s.Owner
	switch {
	case w.Owner.Released && o.State != v1alpha1.OwnerReleased:
		now := metav1.NewMicroTime(w.Now.UTC().Truncate(time.Microsecond))
		o.State, o.ReleasedAt = v1alpha1.OwnerReleased, &now
	case w.Owner.Released:
	case d.Action == migration.AnnounceRelease:
		o.State = v1alpha1.OwnerReleasing
	case aborted && o.State == v1alpha1.OwnerReleased && w.Source.Exists:
		o.State = v1alpha1.OwnerRestored
		if w.Owner.Changed {
			o.State = v1alpha1.OwnerOrphaned
		}
	case aborted && o.State == v1alpha1.OwnerReleasing:
		o.State = v1alpha1.OwnerAttached
	}
}
