// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrlevent "sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/migration"
)

// takesPlace says whether this pass may give the migration a place within the limits:
// by letting it begin, or by giving its target a node.
func (r *MigrationReconciler) takesPlace(m *v1alpha1.Migration) bool {
	if r.Limits == (migration.Limits{}) {
		return false
	}
	return m.Status.Phase == v1alpha1.PhasePending ||
		m.Status.Phase == v1alpha1.PhasePreCopying && targetOf(m).PodUID == ""
}

// observeQueue finds out whether a migration that has not begun may, and whether it
// is still wanted. What the queue holds is not kept anywhere: it is in the Migrations.
func (r *MigrationReconciler) observeQueue(ctx context.Context, w *world) error {
	m := w.Migration
	if m.Status.Phase != v1alpha1.PhasePending {
		return nil
	}
	if name := m.Labels[v1alpha1.LabelEvacuationNode]; name != "" {
		node, err := r.node(ctx, r.Client, name)
		if err != nil {
			return err
		}
		w.DrainOver = node != nil && !migration.Leaving(node)
	}
	q, err := r.enqueue(ctx, r.Client, w)
	if err != nil || !q.Admitted {
		w.Queued = &q
		return err
	}
	if r.Limits == (migration.Limits{}) {
		return nil
	}
	// The cache may not show yet what another pass has just let begin.
	if q, err = r.enqueue(ctx, r.APIReader, w); err != nil || !q.Admitted {
		w.Queued = &q
	}
	return err
}

func (r *MigrationReconciler) enqueue(ctx context.Context, reader client.Reader, w *world) (migration.Queueing, error) {
	tickets, err := r.tickets(ctx, reader)
	return migration.Enqueue(r.Limits, tickets, w.Migration.UID, w.Now), err
}

func (r *MigrationReconciler) tickets(ctx context.Context, reader client.Reader) ([]migration.Ticket, error) {
	if r.Limits == (migration.Limits{}) {
		return nil, nil
	}
	var list v1alpha1.MigrationList
	if err := reader.List(ctx, &list); err != nil {
		return nil, fmt.Errorf("list the Migrations: %w", err)
	}
	var tickets []migration.Ticket
	for i := range list.Items {
		if t := migration.TicketOf(&list.Items[i]); t != nil {
			tickets = append(tickets, *t)
		}
	}
	return tickets, nil
}

// spread leaves out the candidates that as many migrations go to as may.
func (r *MigrationReconciler) spread(ctx context.Context, m *v1alpha1.Migration, candidates []migration.NodeInfo) ([]migration.NodeInfo, error) {
	tickets, err := r.tickets(ctx, r.APIReader)
	if err != nil {
		return nil, err
	}
	full := migration.FullTargets(r.Limits, tickets, m.UID)
	var left []migration.NodeInfo
	for _, n := range candidates {
		if !full(n.Name) {
			left = append(left, n)
		}
	}
	return left, nil
}

// waitingMigrations are those that the end of another may let begin.
func (r *MigrationReconciler) waitingMigrations(ctx context.Context, _ client.Object) []reconcile.Request {
	var list v1alpha1.MigrationList
	if err := r.Client.List(ctx, &list); err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "cannot find the Migrations that wait")
		return nil
	}
	var requests []reconcile.Request
	for i := range list.Items {
		m := &list.Items[i]
		if m.Status.Phase == v1alpha1.PhasePending || m.Status.Phase == v1alpha1.PhasePreCopying && targetOf(m).PodUID == "" {
			requests = append(requests, reconcile.Request{NamespacedName: types.NamespacedName{Namespace: m.Namespace, Name: m.Name}})
		}
	}
	return requests
}

// placeChanges lets through when a Migration takes its place in the queue, or leaves
// one free. Its first status comes before it waits.
func placeChanges() predicate.Predicate {
	return predicate.Funcs{
		CreateFunc: func(ctrlevent.CreateEvent) bool { return false },
		UpdateFunc: func(e ctrlevent.UpdateEvent) bool {
			was, ok1 := e.ObjectOld.(*v1alpha1.Migration)
			is, ok2 := e.ObjectNew.(*v1alpha1.Migration)
			return !ok1 || !ok2 || was.Status.Phase != is.Status.Phase || targetOf(was).NodeName != targetOf(is).NodeName
		},
	}
}
