// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/migration"
)

// conflictRetry is when to look again after a write lost against another
// writer. The other write usually wakes the controller before.
const conflictRetry = 200 * time.Millisecond

// MigrationReconciler drives Migrations through their phases.
type MigrationReconciler struct {
	// Client reads from the cache and writes to the API server.
	Client client.Client
	// APIReader reads from the API server: for everything that must not be
	// decided on what was true a moment ago.
	APIReader client.Reader
	// Recorder emits events.
	Recorder events.EventRecorder
	// Clock tells the time.
	Clock clock.PassiveClock
	// Metrics to count in.
	Metrics *Metrics
	// GateImage is the image of the target pods' gate, GatePullPolicy when to
	// pull it.
	GateImage      string
	GatePullPolicy corev1.PullPolicy
	// MaxConcurrentReconciles is how many Migrations are looked at side by side.
	MaxConcurrentReconciles int
	// Limits on migrations side by side.
	Limits migration.Limits
	// AddressAnnotations pin a pod's addresses, beside migration.AddressAnnotations.
	AddressAnnotations []string

	// admission is held while a migration that waits is looked at, so that two do not
	// take the same place; and while a target pod gets its candidates.
	admission sync.Mutex
}

// SetupWithManager registers the reconciler and the indexes it needs.
func (r *MigrationReconciler) SetupWithManager(mgr ctrl.Manager) error {
	if err := AddIndexes(mgr.GetFieldIndexer()); err != nil {
		return err
	}
	return ctrl.NewControllerManagedBy(mgr).
		Named("migration").
		For(&v1alpha1.Migration{}).
		Watches(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(r.migrationsOfPod)).
		Watches(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(r.migrationsOfOwner)).
		Watches(&v1alpha1.Migration{}, handler.EnqueueRequestsFromMapFunc(r.waitingMigrations), builder.WithPredicates(placeChanges())).
		Watches(&corev1.Node{}, handler.EnqueueRequestsFromMapFunc(r.migrationsOfNode), builder.WithPredicates(nodeChanges())).
		WithOptions(controller.Options{MaxConcurrentReconciles: r.MaxConcurrentReconciles}).
		Complete(r)
}

// Reconcile looks at one Migration: observe, decide, act, store.
func (r *MigrationReconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	m := &v1alpha1.Migration{}
	if err := r.Client.Get(ctx, req.NamespacedName, m); apierrors.IsNotFound(err) {
		return reconcile.Result{}, r.letOrphansGo(ctx, req.NamespacedName)
	} else if err != nil {
		return reconcile.Result{}, err
	}
	log := ctrl.LoggerFrom(ctx).WithValues("uid", m.UID, "phase", m.Status.Phase)
	ctx = ctrl.LoggerInto(ctx, log)

	if r.takesPlace(m) {
		r.admission.Lock()
		defer r.admission.Unlock()
	}
	result, err := r.reconcile(ctx, m)
	if apierrors.IsConflict(err) {
		log.V(1).Info("decided on something outdated, looking again", "conflict", err.Error())
		return reconcile.Result{RequeueAfter: conflictRetry}, nil
	}
	return result, err
}

func (r *MigrationReconciler) reconcile(ctx context.Context, m *v1alpha1.Migration) (reconcile.Result, error) {
	if migration.Finished(m.Status.Phase) {
		return r.finish(ctx, m)
	}
	if err := r.hold(ctx, m); err != nil {
		return reconcile.Result{}, err
	}
	if err := r.closeRequest(ctx, m); err != nil {
		return reconcile.Result{}, err
	}
	w, err := r.observe(ctx, m)
	if err != nil {
		return reconcile.Result{}, err
	}
	decision, err := r.act(ctx, w, migration.Decide(w.Observation))
	if err != nil {
		return reconcile.Result{}, err
	}
	if err := r.store(ctx, w, decision); err != nil {
		return reconcile.Result{}, err
	}
	return reconcile.Result{RequeueAfter: decision.RequeueAfter}, nil
}
