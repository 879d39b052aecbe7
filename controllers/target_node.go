// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrlevent "sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/migration"
)

// observeNode looks at the target's node: before the commit to record which
// Node object it is, after it to see whether it is lost.
func (r *MigrationReconciler) observeNode(ctx context.Context, w *world) error {
	m := w.Migration
	if !committed(m) {
		if w.target == nil || w.target.Spec.NodeName == "" || m.Status.Handover != nil || targetStatus(m).NodeUID != "" {
			return nil
		}
		node, err := r.node(ctx, r.Client, w.target.Spec.NodeName)
		if err == nil && node != nil {
			w.nodeUID = node.UID
		}
		return err
	}
	name := targetOf(m).NodeName
	if name == "" {
		return nil
	}
	node, err := r.node(ctx, r.Client, name)
	if err != nil {
		return err
	}
	w.TargetNode = migration.TargetNodeOf(node)
	if d := migration.Decide(w.Observation); d.Lost == nil && d.Action != migration.Reclaim && d.Resolution == nil {
		return nil
	}
	// What an outcome hangs on is only believed of the API server.
	if node, err = r.node(ctx, r.APIReader, name); err != nil {
		return err
	}
	w.TargetNode = migration.TargetNodeOf(node)
	return nil
}

// node returns the Node of that name; nil when there is none.
func (r *MigrationReconciler) node(ctx context.Context, reader client.Reader, name string) (*corev1.Node, error) {
	node := &corev1.Node{}
	switch err := reader.Get(ctx, types.NamespacedName{Name: name}, node); {
	case apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read node %s: %w", name, err)
	}
	return node, nil
}

func committed(m *v1alpha1.Migration) bool {
	return m.Status.Handover != nil && m.Status.Handover.State == v1alpha1.HandoverCommitted
}

func targetStatus(m *v1alpha1.Migration) v1alpha1.TargetStatus {
	if m.Status.Target == nil {
		return v1alpha1.TargetStatus{}
	}
	return *m.Status.Target
}

// migrationsOfNode maps a node to the Migrations that have committed to it and
// are not confirmed yet, and to those that wait: for a node, or to leave this one.
func (r *MigrationReconciler) migrationsOfNode(ctx context.Context, node client.Object) []reconcile.Request {
	var list v1alpha1.MigrationList
	if err := r.Client.List(ctx, &list); err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "cannot find the Migrations of a node", "node", node.GetName())
		return nil
	}
	var requests []reconcile.Request
	for i := range list.Items {
		m := &list.Items[i]
		if committed(m) && !migration.Finished(m.Status.Phase) && targetOf(m).NodeName == node.GetName() || m.Status.Phase == v1alpha1.PhasePending {
			requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(m)})
		}
	}
	return requests
}

// nodeChanges lets through what matters of a Node: that it comes and goes, whether
// it is lost, and whether it takes pods or is drained. Kubelets write their Nodes all the time.
func nodeChanges() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e ctrlevent.UpdateEvent) bool {
		was, ok1 := e.ObjectOld.(*corev1.Node)
		is, ok2 := e.ObjectNew.(*corev1.Node)
		return !ok1 || !ok2 || migration.TargetNodeOf(was) != migration.TargetNodeOf(is) || use(was) != use(is)
	}}
}

// nodeUse is what those that wait look at.
type nodeUse struct {
	leaving, takesPods bool
	notReady           string
}

func use(node *corev1.Node) nodeUse {
	info := migration.NodeInfoOf(node)
	return nodeUse{leaving: migration.Leaving(node), takesPods: info.Schedulable, notReady: info.NotReady()}
}
