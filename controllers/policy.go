// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/migration"
)

// PolicyOf finds what holds for a pod when its node is drained, by the policies and
// the namespace that the reader has.
func PolicyOf(ctx context.Context, reader client.Reader, pod *corev1.Pod) (migration.Policy, error) {
	var policies v1alpha1.MigrationPolicyList
	if err := reader.List(ctx, &policies); err != nil {
		return migration.Policy{}, fmt.Errorf("list the MigrationPolicies: %w", err)
	}
	var namespace corev1.Namespace
	// Without policies its labels matter to nobody.
	if len(policies.Items) > 0 {
		if err := reader.Get(ctx, client.ObjectKey{Name: pod.Namespace}, &namespace); client.IgnoreNotFound(err) != nil {
			return migration.Policy{}, fmt.Errorf("read namespace %s: %w", pod.Namespace, err)
		}
	}
	return migration.ResolvePolicy(pod, namespace.Labels, policies.Items), nil
}
