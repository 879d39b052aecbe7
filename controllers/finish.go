// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"fmt"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"godwit.dev/godwit/api/v1alpha1"
)

// hold puts the finalizer on a Migration, so that deleting it cancels it
// first. One that is being deleted cannot take a finalizer any more.
func (r *MigrationReconciler) hold(ctx context.Context, m *v1alpha1.Migration) error {
	if m.DeletionTimestamp != nil {
		return nil
	}
	return r.patchFinalizer(ctx, m, controllerutil.AddFinalizer)
}

// finish lets go of a finished Migration, and deletes it when its time is up.
func (r *MigrationReconciler) finish(ctx context.Context, m *v1alpha1.Migration) (reconcile.Result, error) {
	if err := r.undoLateRelease(ctx, m); err != nil {
		return reconcile.Result{}, err
	}
	if err := r.patchFinalizer(ctx, m, controllerutil.RemoveFinalizer); err != nil {
		return reconcile.Result{}, err
	}
	if m.DeletionTimestamp != nil || m.Spec.TTLSecondsAfterFinished == nil || m.Status.CompletionTime == nil {
		return reconcile.Result{}, nil
	}
	ttl := time.Duration(*m.Spec.TTLSecondsAfterFinished) * time.Second
	if left := m.Status.CompletionTime.Add(ttl).Sub(r.Clock.Now()); left > 0 {
		return reconcile.Result{RequeueAfter: left}, nil
	}
	err := r.Client.Delete(ctx, m, client.Preconditions{UID: &m.UID}, client.PropagationPolicy("Background"))
	if client.IgnoreNotFound(err) != nil {
		return reconcile.Result{}, fmt.Errorf("delete after its time: %w", err)
	}
	return reconcile.Result{}, nil
}

// patchFinalizer changes m's finalizers with change, which says whether it did.
func (r *MigrationReconciler) patchFinalizer(ctx context.Context, m *v1alpha1.Migration, change func(client.Object, string) bool) error {
	// The list of finalizers is replaced as a whole: the precondition keeps
	// someone else's from being lost.
	patch := client.MergeFromWithOptions(m.DeepCopy(), client.MergeFromWithOptimisticLock{})
	if !change(m, v1alpha1.Finalizer) {
		return nil
	}
	if err := r.Client.Patch(ctx, m, patch, client.FieldOwner(v1alpha1.FieldManagerController)); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("patch finalizers: %w", err)
	}
	return nil
}
