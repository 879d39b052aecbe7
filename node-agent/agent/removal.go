// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Removal tells the removal of Godwit from a mere restart of this agent, by the
// DaemonSet that owns the agent's pod. Helm and kubectl delete the DaemonSet and
// the rights to look at it in any order, so once it could be read, being
// forbidden to read it counts as its removal.
type Removal struct {
	reader client.Reader
	name   types.NamespacedName
	uid    types.UID
}

// FindRemoval looks up the owner of the agent's pod. It returns nil, nil when
// the pod is not a DaemonSet's (run by hand, in a test).
func FindRemoval(ctx context.Context, reader client.Reader, namespace, pod string) (*Removal, error) {
	if namespace == "" || pod == "" {
		return nil, nil
	}
	var p corev1.Pod
	if err := reader.Get(ctx, types.NamespacedName{Namespace: namespace, Name: pod}, &p); err != nil {
		return nil, fmt.Errorf("find the agent's own pod: %w", err)
	}
	owner := metav1.GetControllerOf(&p)
	if owner == nil || owner.Kind != "DaemonSet" {
		return nil, nil
	}
	r := &Removal{reader: reader, name: types.NamespacedName{Namespace: namespace, Name: owner.Name}, uid: owner.UID}
	var ds appsv1.DaemonSet
	if err := reader.Get(ctx, r.name, &ds); err != nil {
		return nil, fmt.Errorf("read the agent's own DaemonSet: %w", err)
	}
	return r, nil
}

// Removed says whether the DaemonSet is gone or going. An API server that does
// not answer means no: a restart must never take the handler away.
func (r *Removal) Removed(ctx context.Context) bool {
	if r == nil {
		return false
	}
	var ds appsv1.DaemonSet
	err := r.reader.Get(ctx, r.name, &ds)
	switch {
	case apierrors.IsNotFound(err), apierrors.IsForbidden(err), apierrors.IsUnauthorized(err):
		return true
	case err != nil:
		return false
	}
	return ds.UID != r.uid || ds.DeletionTimestamp != nil
}
