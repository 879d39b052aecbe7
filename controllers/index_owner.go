// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/migration"
)

// IndexOwners finds Migrations by the UID of their pods' workload controller.
const IndexOwners = "godwit.dev/owners"

func addOwnerIndex(indexer client.FieldIndexer) error {
	err := indexer.IndexField(context.Background(), &v1alpha1.Migration{}, IndexOwners, func(o client.Object) []string {
		if owner := o.(*v1alpha1.Migration).Status.Owner; owner != nil {
			return []string{string(owner.UID)}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("index Migrations by their pods' owners: %w", err)
	}
	return nil
}

// ByOwner lists the Migrations of pods of that workload controller, finished ones
// as well.
func ByOwner(ctx context.Context, reader client.Reader, namespace string, owner types.UID) ([]v1alpha1.Migration, error) {
	var list v1alpha1.MigrationList
	if err := reader.List(ctx, &list, client.InNamespace(namespace), client.MatchingFields{IndexOwners: string(owner)}); err != nil {
		return nil, fmt.Errorf("list the Migrations of an owner's pods: %w", err)
	}
	return list.Items, nil
}

// migrationsOfOwner maps a pod to the Migrations that move a pod of the same
// workload controller: it may be the replacement of their source, or have been
// removed instead of their target.
func (r *MigrationReconciler) migrationsOfOwner(ctx context.Context, pod client.Object) []reconcile.Request {
	owner := metav1.GetControllerOf(pod)
	if owner == nil {
		return nil
	}
	list, err := ByOwner(ctx, r.Client, pod.GetNamespace(), owner.UID)
	if err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "cannot find the Migrations of an owner", "pod", client.ObjectKeyFromObject(pod))
		return nil
	}
	var requests []reconcile.Request
	for i := range list {
		if !migration.Finished(list[i].Status.Phase) {
			requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&list[i])})
		}
	}
	return requests
}
