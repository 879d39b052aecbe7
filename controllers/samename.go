// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"fmt"
	"maps"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/migration"
)

// keepsName says whether the target of a migration that has not begun will have the
// source's name.
func keepsName(w *world) bool { return w.owner != nil && w.owner.Kind == migration.KindStatefulSet }

// replaced says whether a pod that keeps its name has been given up on the source, so
// that the target is the pod of that name.
func replaced(m *v1alpha1.Migration) bool {
	return migration.SameName(m) && committed(m) && m.Status.Phase != v1alpha1.PhaseSwitchingOver
}

// successor is the pod that has the source's name and was made the target; nil while
// there is none. Another one takes its place when it is gone and nothing was restored
// into it.
func (r *MigrationReconciler) successor(ctx context.Context, m *v1alpha1.Migration) (*corev1.Pod, error) {
	if t := m.Status.Target; t != nil && t.PodUID != "" && !migration.IsPlaceholder(m) {
		pod, err := r.pod(ctx, m.Namespace, t.PodRef)
		if err != nil || pod != nil {
			return pod, err
		}
	}
	if !migration.MayFollow(m) {
		return nil, nil
	}
	pod, err := r.named(ctx, m)
	if err != nil || pod == nil || !madeFor(m, pod) {
		return nil, err
	}
	return pod, nil
}

// named is the pod that has the source's name and is not the source.
func (r *MigrationReconciler) named(ctx context.Context, m *v1alpha1.Migration) (*corev1.Pod, error) {
	pod, err := r.pod(ctx, m.Namespace, v1alpha1.PodRef{PodName: m.Spec.PodName})
	if err != nil || pod == nil || m.Status.Source != nil && pod.UID == m.Status.Source.PodUID {
		return nil, err
	}
	return pod, nil
}

// observePlaceholder looks at the placeholder of a pod that keeps its name, and whether
// another pod has the name.
func (r *MigrationReconciler) observePlaceholder(ctx context.Context, w *world) error {
	m := w.Migration
	if !replaced(m) {
		return nil
	}
	var err error
	if p := m.Status.Placeholder; p != nil && p.PodUID != "" {
		if w.placeholder, err = r.pod(ctx, m.Namespace, *p); err != nil {
			return err
		}
		w.Placeholder = podFacts(w.placeholder)
	}
	if w.source != nil || w.target != nil || m.Status.Phase != v1alpha1.PhaseReplacing {
		return nil
	}
	pod, err := r.named(ctx, m)
	w.Usurped = pod != nil && !madeFor(m, pod)
	return err
}

// followSuccessor records which pod the target is now. Its node stays the one that has
// committed.
func followSuccessor(t *v1alpha1.TargetStatus, pod *corev1.Pod) {
	if t.PodUID == pod.UID {
		return
	}
	t.PodName, t.PodUID, t.StartedAt = pod.Name, pod.UID, nil
}

// mayDeletePlaceholder: the target is another pod by now.
func mayDeletePlaceholder(live *v1alpha1.Migration, pod *corev1.Pod) bool {
	p := live.Status.Placeholder
	return replaced(live) && p != nil && p.PodUID == pod.UID
}

// arm rehearses how the pod is made anew, and enters the phase in which it is frozen.
func (r *MigrationReconciler) arm(ctx context.Context, w *world, d migration.Decision) (migration.Decision, error) {
	missing, failure, err := r.rehearseSameName(ctx, w)
	if err != nil || failure != nil || missing != "" {
		return rehearsed(d, "converged", missing, failure), err
	}
	d.Action = migration.Advance
	return d, nil
}

// rehearsed is what becomes of a decision whose rehearsal has not passed.
func rehearsed(d migration.Decision, message, missing string, failure *v1alpha1.Failure) migration.Decision {
	if failure != nil {
		return abort(failure)
	}
	d.Action, d.Phase, d.RequeueAfter = migration.Wait, "", webhookPoll
	d.Message = message + "; waiting until " + missing
	return d
}

// nameIsKept is a part of what the policy godwit-same-name says.
const nameIsKept = "this one would start afresh"

// rehearseSameName creates the pod as its controller will, without storing it. The
// name is taken, but that is found out last: what comes before is whether the webhook
// makes the pod the target, and whether the API server keeps the name from one that it
// does not. missing ends a sentence about what is to be waited for.
func (r *MigrationReconciler) rehearseSameName(ctx context.Context, w *world) (missing string, failure *v1alpha1.Failure, err error) {
	steered, err := r.rehearseAs(ctx, w, nil)
	switch {
	case apierrors.IsForbidden(steered) && strings.Contains(steered.Error(), nameIsKept):
		return "the API server asks the manager's admission webhook about new pods", nil, nil
	case err != nil:
		return "", nil, err
	case steered != nil:
		return "", &v1alpha1.Failure{Reason: v1alpha1.ReasonTargetPodCreateRefused,
			Message: fmt.Sprintf("the API server refuses the pod that %s would make again: %v", w.Owner, steered)}, nil
	}
	plain, err := r.rehearseAs(ctx, w, map[string]string{v1alpha1.AnnotationRehearsal: "plain"})
	if err == nil && (!apierrors.IsForbidden(plain) || !strings.Contains(plain.Error(), nameIsKept)) {
		return "the API server enforces the admission policy godwit-same-name, which keeps the pod's name from others", nil, nil
	}
	return "", nil, err
}

// rehearseAs returns as refused what the API server has against the pod, apart from
// that its name is taken and from quotas, which the source still has its share of.
func (r *MigrationReconciler) rehearseAs(ctx context.Context, w *world, annotations map[string]string) (refused, err error) {
	switch err := r.Client.Create(ctx, madeAgain(w.ownerObject, w.source, annotations), client.DryRunAll); {
	case err == nil, apierrors.IsAlreadyExists(err):
		return nil, nil
	case apierrors.IsForbidden(err) && strings.Contains(err.Error(), "exceeded quota"):
		return nil, nil
	case apierrors.IsInvalid(err), apierrors.IsForbidden(err), apierrors.IsBadRequest(err):
		return err, nil
	default:
		return nil, fmt.Errorf("rehearse how the pod is made again: %w", err)
	}
}

// madeAgain is the pod that a StatefulSet makes when it has lost one.
func madeAgain(owner client.Object, lost *corev1.Pod, annotations map[string]string) *corev1.Pod {
	yes := true
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Namespace: lost.Namespace, Name: lost.Name, Labels: maps.Clone(lost.Labels), Annotations: annotations,
		OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: migration.KindStatefulSet,
			Name: owner.GetName(), UID: owner.GetUID(), Controller: &yes, BlockOwnerDeletion: &yes}},
	}}
	delete(pod.Labels, v1alpha1.LabelMigration)
	pod.Spec = *lost.Spec.DeepCopy()
	pod.Spec.NodeName = ""
	pod.Spec.EphemeralContainers = nil
	// Admission computes these, and refuses others.
	pod.Spec.Priority, pod.Spec.PreemptionPolicy, pod.Spec.Overhead = nil, nil, nil
	return pod
}
