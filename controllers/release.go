// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"fmt"
	"maps"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/failpoint"
	"godwit.dev/godwit/internal/migration"
)

// webhookPoll is how often it is tried whether the webhook answers: nothing tells.
const webhookPoll = time.Second

// releaseSource releases the source from its controller, if the webhook is seen to
// make a pod that the controller creates the target.
func (r *MigrationReconciler) releaseSource(ctx context.Context, w *world, d migration.Decision) (migration.Decision, error) {
	m := w.Migration
	labels, failure, err := r.releaseLabels(ctx, w.source, w.ownerObject)
	if err != nil {
		return d, err
	}
	if failure != nil {
		return abort(failure), nil
	}
	if _, failure, err = r.candidates(ctx, m, w.source); err != nil {
		return d, err
	}
	if failure != nil {
		return abort(failure), nil
	}
	if missing, failure, err := r.rehearse(ctx, w); err != nil {
		return d, err
	} else if failure != nil {
		return abort(failure), nil
	} else if missing != "" {
		d.Message, d.RequeueAfter = missing, webhookPoll
		return d, nil
	}
	// A pod that was released after the migration was given up would stay so.
	if err := r.confirm(ctx, m, func(live *v1alpha1.Migration) bool {
		return live.Status.Phase == v1alpha1.PhasePreCopying && live.Status.Handover == nil && !migration.CancelRequested(live) &&
			live.Status.Owner != nil && live.Status.Owner.State == v1alpha1.OwnerReleasing
	}); err != nil {
		return d, err
	}
	body, err := migration.ReleasePatch(w.source, m, labels)
	if err != nil {
		return d, err
	}
	failpoint.At("manager-releasing")
	err = r.patchPod(ctx, w.source, body, "released a pod from its controller")
	if err == nil {
		failpoint.At("manager-released")
	}
	return d, err
}

func (r *MigrationReconciler) markTarget(ctx context.Context, w *world) error {
	if err := r.confirm(ctx, w.Migration, aborted); err != nil {
		return err
	}
	body, err := migration.MarkPatch(w.target)
	if err != nil {
		return err
	}
	return r.patchPod(ctx, w.target, body, "marked a pod as the first to go")
}

// returnSource gives the source back to its controller, or, when that is gone,
// leaves it to itself.
func (r *MigrationReconciler) returnSource(ctx context.Context, w *world) error {
	release := migration.ReleasedBy(w.source, w.Migration)
	if release == nil {
		return nil
	}
	if err := r.confirm(ctx, w.Migration, aborted); err != nil {
		return err
	}
	body, err := migration.ReturnPatch(w.source, release, !w.Owner.Gone)
	if err != nil {
		return err
	}
	failpoint.At("manager-returning")
	if err := r.patchPod(ctx, w.source, body, "gave a pod back to its controller"); err != nil {
		return err
	}
	failpoint.At("manager-returned")
	return nil
}

func aborted(live *v1alpha1.Migration) bool {
	return live.Status.Handover != nil && live.Status.Handover.State == v1alpha1.HandoverAborted
}

// undoLateRelease gives back a source whose release was stored when its Migration
// was over: the manager that has sent it stood still meanwhile, and was replaced.
func (r *MigrationReconciler) undoLateRelease(ctx context.Context, m *v1alpha1.Migration) error {
	if m.Status.Owner == nil || m.Status.Phase == v1alpha1.PhaseSucceeded {
		return nil
	}
	source, err := r.pod(ctx, m.Namespace, sourceRef(m))
	if err != nil {
		return err
	}
	release := migration.ReleasedBy(source, m)
	if release == nil {
		return nil
	}
	body, err := migration.SettlePatch(source, release)
	if !release.Returned {
		owner, _, failed := readOwner(ctx, r.APIReader, m.Namespace, m.Status.Owner)
		if failed != nil {
			return failed
		}
		body, err = migration.ReturnPatch(source, release, owner != nil && owner.GetDeletionTimestamp() == nil)
	}
	if err != nil {
		return err
	}
	return r.patchPod(ctx, source, body, "gave a pod back whose release came too late")
}

func (r *MigrationReconciler) settleSource(ctx context.Context, w *world) error {
	release := migration.ReleasedBy(w.source, w.Migration)
	if release == nil {
		return nil
	}
	body, err := migration.SettlePatch(w.source, release)
	if err != nil {
		return err
	}
	return r.patchPod(ctx, w.source, body, "a pod is its controller's again")
}

// countTarget lets the target's Job count it, now that it is the pod.
func (r *MigrationReconciler) countTarget(ctx context.Context, w *world) error {
	if err := r.confirm(ctx, w.Migration, func(live *v1alpha1.Migration) bool { return live.Status.Phase == v1alpha1.PhaseCompleting }); err != nil {
		return err
	}
	body, err := migration.TrackPatch(w.target)
	if err != nil {
		return err
	}
	return r.patchPod(ctx, w.target, body, "a Job counts its moved pod")
}

// patchPod sends a JSON patch that is guarded by the pod's version. That it was
// written meanwhile is a conflict.
func (r *MigrationReconciler) patchPod(ctx context.Context, pod *corev1.Pod, body []byte, done string) error {
	err := r.Client.Patch(ctx, pod.DeepCopy(), client.RawPatch(types.JSONPatchType, body), client.FieldOwner(v1alpha1.FieldManagerController))
	switch {
	case apierrors.IsNotFound(err):
		return nil // it is looked at again, and found gone
	case apierrors.IsInvalid(err), apierrors.IsConflict(err):
		// A test of the patch that fails is called invalid.
		return apierrors.NewConflict(corev1.Resource("pods"), pod.Name, err)
	case err != nil:
		return fmt.Errorf("patch pod %s: %w", pod.Name, err)
	}
	ctrl.LoggerFrom(ctx).Info(done, "pod", pod.Name, "podUID", pod.UID)
	return nil
}

// rehearse creates the replacement as the controller will, without storing it, and
// sees whether it would become the target. missing says in a sentence what is to
// be waited for; a failure is what the API server refuses for good.
func (r *MigrationReconciler) rehearse(ctx context.Context, w *world) (missing string, failure *v1alpha1.Failure, err error) {
	pod := replacement(w.ownerObject, w.source)
	err = r.Client.Create(ctx, pod, client.DryRunAll)
	refused, missing := refusesPod(err)
	switch {
	case missing != "":
		return "converged; waiting until " + missing, nil, nil
	case refused:
		return "", &v1alpha1.Failure{Reason: v1alpha1.ReasonTargetPodCreateRefused,
			Message: fmt.Sprintf("the API server refuses the pod that %s would replace the source with: %v", w.Owner, err)}, nil
	case err != nil:
		return "", nil, fmt.Errorf("rehearse the replacement: %w", err)
	}
	if !madeFor(w.Migration, pod) || pod.Name != migration.TargetPodName(w.Migration) {
		return "converged; waiting until the API server asks the manager's admission webhook about new pods", nil, nil
	}
	return "", nil, nil
}

// replacement is the pod that a controller makes in place of one it has lost.
func replacement(owner client.Object, lost *corev1.Pod) *corev1.Pod {
	var template corev1.PodTemplateSpec
	ref := metav1.OwnerReference{Name: owner.GetName(), UID: owner.GetUID(), Controller: new(bool)}
	*ref.Controller = true
	pod := &corev1.Pod{}
	switch o := owner.(type) {
	case *appsv1.ReplicaSet:
		template = *o.Spec.Template.DeepCopy()
		ref.APIVersion, ref.Kind = appsv1.SchemeGroupVersion.String(), migration.KindReplicaSet
	case *batchv1.Job:
		template = *o.Spec.Template.DeepCopy()
		ref.APIVersion, ref.Kind = batchv1.SchemeGroupVersion.String(), migration.KindJob
	}
	pod.ObjectMeta = metav1.ObjectMeta{
		Namespace: owner.GetNamespace(), GenerateName: owner.GetName() + "-",
		Labels: template.Labels, Annotations: template.Annotations, Finalizers: template.Finalizers,
		OwnerReferences: []metav1.OwnerReference{ref},
	}
	if index, ok := lost.Annotations[batchv1.JobCompletionIndexAnnotation]; ok {
		pod.Annotations = maps.Clone(pod.Annotations)
		if pod.Annotations == nil {
			pod.Annotations = map[string]string{}
		}
		pod.Annotations[batchv1.JobCompletionIndexAnnotation] = index
	}
	pod.Spec = template.Spec
	return pod
}

// releaseLabels are the labels that have to be changed to release the pod, or why
// there are none.
func (r *MigrationReconciler) releaseLabels(ctx context.Context, pod *corev1.Pod, owner client.Object) ([]string, *v1alpha1.Failure, error) {
	var selector *metav1.LabelSelector
	switch o := owner.(type) {
	case *appsv1.ReplicaSet:
		selector = o.Spec.Selector
	case *batchv1.Job:
		selector = o.Spec.Selector
	}
	// Most selectors have a label of their own; others are only looked for if not.
	if labels := migration.ReleaseLabels(pod, selector, nil); len(labels) > 0 && migration.OwnLabel(labels[0]) {
		return labels, nil, nil
	}
	used, err := r.usedLabels(ctx, pod.Namespace)
	if err != nil {
		return nil, nil, err
	}
	if labels := migration.ReleaseLabels(pod, selector, used); len(labels) > 0 {
		return labels, nil, nil
	}
	return nil, &v1alpha1.Failure{Reason: v1alpha1.ReasonOwnedPod,
		Message: fmt.Sprintf("every label by which %s finds its pods is also used by a Service, a PodDisruptionBudget or a NetworkPolicy, so the pod cannot be released from the one without the others; give the template and the selector a label of their own", owner.GetName())}, nil
}

// usedLabels are the keys of labels that Services, PodDisruptionBudgets and
// NetworkPolicies of the namespace select pods by.
func (r *MigrationReconciler) usedLabels(ctx context.Context, namespace string) (map[string]bool, error) {
	var services corev1.ServiceList
	var budgets policyv1.PodDisruptionBudgetList
	var policies networkingv1.NetworkPolicyList
	for _, list := range []client.ObjectList{&services, &budgets, &policies} {
		if err := r.APIReader.List(ctx, list, client.InNamespace(namespace)); err != nil {
			return nil, fmt.Errorf("list what selects pods: %w", err)
		}
	}
	used := map[string]bool{}
	add := func(s *metav1.LabelSelector) {
		if s == nil {
			return
		}
		for key := range s.MatchLabels {
			used[key] = true
		}
		for _, e := range s.MatchExpressions {
			used[e.Key] = true
		}
	}
	for i := range services.Items {
		add(&metav1.LabelSelector{MatchLabels: services.Items[i].Spec.Selector})
	}
	for i := range budgets.Items {
		add(budgets.Items[i].Spec.Selector)
	}
	for i := range policies.Items {
		p := &policies.Items[i].Spec
		add(&p.PodSelector)
		for _, rule := range p.Ingress {
			for _, peer := range rule.From {
				add(peer.PodSelector)
			}
		}
		for _, rule := range p.Egress {
			for _, peer := range rule.To {
				add(peer.PodSelector)
			}
		}
	}
	return used, nil
}
