// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/migration"
)

// IndexPods finds Migrations by the name of either of their pods. The target's
// name is known before the target is, so its first event finds its way too.
const IndexPods = "godwit.dev/pods"

// IndexNode finds pods by the node they run on.
const IndexNode = "spec.nodeName"

// AddIndexes adds the indexes that the reconcilers and the webhooks list by.
func AddIndexes(indexer client.FieldIndexer) error {
	if err := indexer.IndexField(context.Background(), &v1alpha1.Migration{}, IndexPods, podNames); err != nil {
		return fmt.Errorf("index Migrations by their pods: %w", err)
	}
	byNode := func(o client.Object) []string { return []string{o.(*corev1.Pod).Spec.NodeName} }
	if err := indexer.IndexField(context.Background(), &corev1.Pod{}, IndexNode, byNode); err != nil {
		return fmt.Errorf("index pods by their node: %w", err)
	}
	return addOwnerIndex(indexer)
}

func podNames(o client.Object) []string {
	m := o.(*v1alpha1.Migration)
	return []string{m.Spec.PodName, migration.TargetPodName(m)}
}

// migrationsOfPod maps a pod to the Migrations it is the source or target of.
func (r *MigrationReconciler) migrationsOfPod(ctx context.Context, pod client.Object) []reconcile.Request {
	list, err := r.byPod(ctx, pod.GetNamespace(), pod.GetName())
	if err != nil {
		// Only a stopped or misconfigured cache fails; the periodic
		// resynchronisation makes up for a lost event.
		ctrl.LoggerFrom(ctx).Error(err, "cannot find the Migrations of a pod", "pod", client.ObjectKeyFromObject(pod))
		return nil
	}
	var requests []reconcile.Request
	// A release may be stored when its Migration is over.
	released := migration.ReleaseOf(pod.(*corev1.Pod)) != nil
	if migration.IsHeld(pod.(*corev1.Pod)) && len(list) == 0 {
		// Its Migration may be no more, and would not have let it go.
		if namespace, name, err := migration.SplitAnnotation(pod.GetAnnotations()[v1alpha1.AnnotationMigration]); err == nil && namespace == pod.GetNamespace() {
			requests = append(requests, reconcile.Request{NamespacedName: types.NamespacedName{Namespace: namespace, Name: name}})
		}
	}
	for i := range list {
		if released || !migration.Finished(list[i].Status.Phase) {
			requests = append(requests, reconcile.Request{NamespacedName: types.NamespacedName{Namespace: list[i].Namespace, Name: list[i].Name}})
		}
	}
	return requests
}

// byPod lists the Migrations that have a pod of this name on either side.
func (r *MigrationReconciler) byPod(ctx context.Context, namespace, name string) ([]v1alpha1.Migration, error) {
	var list v1alpha1.MigrationList
	if err := r.Client.List(ctx, &list, client.InNamespace(namespace), client.MatchingFields{IndexPods: name}); err != nil {
		return nil, fmt.Errorf("list the Migrations of pod %s: %w", name, err)
	}
	return list.Items, nil
}
