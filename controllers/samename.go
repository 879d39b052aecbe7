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
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/migration"
)

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

// claimsToHandOver are those of a pod that keeps its name, by name: its placeholder is to
// be where they may be attached, and not to wait for them. Else the target mounts them.
func (r *MigrationReconciler) claimsToHandOver(ctx context.Context, w *world) (map[string]migration.Claim, error) {
	if !migration.SameName(w.Migration) {
		return nil, nil
	}
	return r.claims(ctx, w.source)
}

// shared says what keeps the volumes that are to be handed over on the source's node.
func (r *MigrationReconciler) shared(ctx context.Context, source *corev1.Pod, volumes []string) ([]v1alpha1.Failure, error) {
	if len(volumes) == 0 {
		return nil, nil
	}
	var pods corev1.PodList
	if err := r.Client.List(ctx, &pods, client.InNamespace(source.Namespace)); err != nil {
		return nil, fmt.Errorf("list the pods: %w", err)
	}
	return migration.CheckShared(source, volumes, pods.Items), nil
}

func (r *MigrationReconciler) placeholder(w *world, claims map[string]migration.Claim, hostnames []string) (*corev1.Pod, error) {
	m := w.Migration
	return migration.BuildPlaceholder(w.source, m, r.GateImage, r.GatePullPolicy, hostnames, migration.HandedOver(w.source, claims, m.Spec.VolumePolicy))
}

// mayDropPlaceholder: the target is confirmed, and the pod is not made again any more.
func mayDropPlaceholder(live *v1alpha1.Migration, pod *corev1.Pod) bool {
	return mayDeletePlaceholder(live, pod) && live.Status.Phase == v1alpha1.PhaseCompleting
}

// arm rehearses how the pod is made anew, and enters the phase in which it is frozen.
func (r *MigrationReconciler) arm(ctx context.Context, w *world, d migration.Decision) (migration.Decision, error) {
	claims, err := r.claimsToHandOver(ctx, w)
	if err != nil {
		return d, err
	}
	refusals, err := r.shared(ctx, w.source, migration.HandedOver(w.source, claims, w.Migration.Spec.VolumePolicy))
	if err != nil {
		return d, err
	}
	if len(refusals) > 0 {
		return abort(migration.Refusal(refusals)), nil
	}
	missing, failure, err := r.rehearseSameName(ctx, w, claims)
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

// keepsName is a part of what the policy godwit-same-name says.
const keepsName = "this one would start afresh"

// rehearseSameName creates the pod as its maker will, without storing it. The
// name is taken, but that is found out last: what comes before is whether the pod may be
// made the target (by the webhook, unless the manager is the maker), and whether the API
// server keeps the name from one that is not. missing ends a sentence about what is to be
// waited for.
func (r *MigrationReconciler) rehearseSameName(ctx context.Context, w *world, claims map[string]migration.Claim) (missing string, failure *v1alpha1.Failure, err error) {
	target := madeAgain(w.ownerObject, w.source, nil)
	if w.owner == nil {
		placeholder, err := r.placeholder(w, claims, nil)
		if err != nil {
			return "", nil, err
		}
		if target, err = r.successorLike(placeholder, w.Migration, ""); err != nil {
			return "", nil, err
		}
	}
	steered, err := r.rehearseAs(ctx, target)
	refused, missing := refusesPod(steered)
	switch {
	case apierrors.IsForbidden(steered) && strings.Contains(steered.Error(), keepsName):
		return "the API server asks the manager's admission webhook about new pods", nil, nil
	case err != nil:
		return "", nil, err
	case missing != "":
		return missing, nil, nil
	case refused:
		return "", &v1alpha1.Failure{Reason: v1alpha1.ReasonTargetPodCreateRefused,
			Message: fmt.Sprintf("the API server refuses the pod that would be made again: %v", steered)}, nil
	}
	plain, err := r.rehearseAs(ctx, madeAgain(w.ownerObject, w.source, map[string]string{v1alpha1.AnnotationRehearsal: "plain"}))
	if err == nil && (!apierrors.IsForbidden(plain) || !strings.Contains(plain.Error(), keepsName)) {
		return "the API server enforces the admission policy godwit-same-name, which keeps the pod's name from others", nil, nil
	}
	return "", nil, err
}

// rehearseAs returns as against what the API server has against the pod, apart from
// that its name is taken and from quotas, which the source still has its share of.
func (r *MigrationReconciler) rehearseAs(ctx context.Context, pod *corev1.Pod) (against, err error) {
	err = r.Client.Create(ctx, pod, client.DryRunAll)
	refused, missing := refusesPod(err)
	switch {
	case err == nil, apierrors.IsAlreadyExists(err):
		return nil, nil
	case apierrors.IsForbidden(err) && strings.Contains(err.Error(), "exceeded quota"):
		return nil, nil
	case refused, missing != "":
		return err, nil
	default:
		return nil, fmt.Errorf("rehearse how the pod is made again: %w", err)
	}
}

// madeAgain is the pod that a StatefulSet makes when it has lost one; without an owner, the
// one that anybody might make under the name.
func madeAgain(owner client.Object, lost *corev1.Pod, annotations map[string]string) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Namespace: lost.Namespace, Name: lost.Name, Labels: maps.Clone(lost.Labels), Annotations: annotations,
	}}
	if owner != nil {
		yes := true
		pod.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: migration.KindStatefulSet,
			Name: owner.GetName(), UID: owner.GetUID(), Controller: &yes, BlockOwnerDeletion: &yes}}
	}
	delete(pod.Labels, v1alpha1.LabelMigration)
	pod.Spec = *lost.Spec.DeepCopy()
	pod.Spec.NodeName = ""
	pod.Spec.EphemeralContainers = nil
	// Admission computes these, and refuses others.
	pod.Spec.Priority, pod.Spec.PreemptionPolicy, pod.Spec.Overhead = nil, nil, nil
	return pod
}

// successorLike is the pod that the manager makes again of what its placeholder says.
func (r *MigrationReconciler) successorLike(placeholder *corev1.Pod, m *v1alpha1.Migration, hostname string) (*corev1.Pod, error) {
	pod, err := migration.PodAgain(placeholder, m)
	if err != nil {
		return nil, err
	}
	return migration.SameNamePod(pod, placeholder, m, r.GateImage, r.GatePullPolicy, hostname)
}

// makeAgain makes the pod of no controller again, on the node that has committed. There is
// nothing to go back to: what is refused is tried again. The name is the lock; whichever
// manager finds the pod there, and the placeholder's finalizer keeps what it is made of
// until it runs.
func (r *MigrationReconciler) makeAgain(ctx context.Context, w *world, d migration.Decision) (migration.Decision, error) {
	m := w.Migration
	node, err := r.node(ctx, r.Client, targetOf(m).NodeName)
	if err != nil {
		return d, err
	}
	if node == nil {
		d.Action, d.RequeueAfter = migration.Wait, webhookPoll
		return d, nil
	}
	info := migration.NodeInfoOf(node)
	pod, err := r.successorLike(w.placeholder, m, info.Hostname())
	if err != nil {
		return d, err
	}
	if err := r.confirm(ctx, m, migration.MayFollow); err != nil {
		return d, err
	}
	err = r.Client.Create(ctx, pod)
	refused, missing := refusesPod(err)
	switch {
	case err == nil:
		ctrl.LoggerFrom(ctx).Info("made a pod again", "pod", pod.Name, "podUID", pod.UID)
	case apierrors.IsAlreadyExists(err):
		// Ours, from a pass that could not record it: then it is found. Or somebody
		// else's, and then that is.
		d.Action, d.RequeueAfter = migration.Wait, webhookPoll
		return d, nil
	case refused, missing != "":
		d.Action, d.RequeueAfter = migration.Wait, webhookPoll
		d.Message = fmt.Sprintf("committed: the API server refuses pod %s, and it is tried again: %v", pod.Name, err)
		return d, nil
	default:
		return d, fmt.Errorf("make pod %s again: %w", pod.Name, err)
	}
	w.target, w.Target = pod, podFacts(pod)
	return d, nil
}

// dropPod lets a pod go, if it is held, and deletes it, when the Migration as it is on the
// API server allows that.
func (r *MigrationReconciler) dropPod(ctx context.Context, m *v1alpha1.Migration, pod *corev1.Pod, may func(*v1alpha1.Migration, *corev1.Pod) bool) error {
	if migration.IsHeld(pod) {
		if err := r.confirm(ctx, m, func(live *v1alpha1.Migration) bool { return may(live, pod) }); err != nil {
			return err
		}
		if err := r.letGo(ctx, pod); err != nil {
			return err
		}
	}
	if pod.DeletionTimestamp != nil {
		return nil
	}
	return r.deletePod(ctx, m, pod, may)
}

// letGo lets a placeholder go.
func (r *MigrationReconciler) letGo(ctx context.Context, pod *corev1.Pod) error {
	body, err := migration.LetGoPatch(pod)
	if err != nil {
		return err
	}
	return client.IgnoreNotFound(r.patchPod(ctx, pod, body, "let a placeholder go"))
}

// letOrphansGo lets the placeholders of a Migration go that is no more: it was removed by
// force. Nobody is left to decide what becomes of them but who deletes them.
func (r *MigrationReconciler) letOrphansGo(ctx context.Context, name types.NamespacedName) error {
	var pods corev1.PodList
	if err := r.Client.List(ctx, &pods, client.InNamespace(name.Namespace), client.HasLabels{v1alpha1.LabelMigration}); err != nil {
		return fmt.Errorf("list placeholders: %w", err)
	}
	for i := range pods.Items {
		pod := &pods.Items[i]
		if !migration.IsHeld(pod) || pod.Annotations[v1alpha1.AnnotationMigration] != name.String() {
			continue
		}
		switch err := r.APIReader.Get(ctx, name, &v1alpha1.Migration{}); {
		case err == nil:
			return nil
		case !apierrors.IsNotFound(err):
			return fmt.Errorf("read Migration %s: %w", name, err)
		}
		if err := r.letGo(ctx, pod); err != nil {
			return err
		}
	}
	return nil
}
