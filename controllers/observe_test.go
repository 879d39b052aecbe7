// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"godwit.dev/godwit/api/v1alpha1"
)

// A pod is refused for what it is, and not for what a cache still has of it; once its
// migration has begun, the cache does.
func TestAPodIsNotRefusedForAStaleCache(t *testing.T) {
	ready := optedIn("app", "n1", v1alpha1.EvacuationNone)
	pending := ready.DeepCopy()
	pending.Status = corev1.PodStatus{Phase: corev1.PodPending}
	r := &MigrationReconciler{Client: memory(t, pending), APIReader: memory(t, ready)}
	for phase, want := range map[v1alpha1.MigrationPhase]corev1.PodPhase{
		"": corev1.PodRunning, v1alpha1.PhasePending: corev1.PodRunning, v1alpha1.PhasePreCopying: corev1.PodPending,
	} {
		m := &v1alpha1.Migration{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "m"}, Spec: v1alpha1.MigrationSpec{PodName: "app"}}
		m.Status.Phase = phase
		if pod, err := r.sourcePod(t.Context(), m); err != nil || pod == nil || pod.Status.Phase != want {
			t.Errorf("in phase %q: %+v, %v", phase, pod, err)
		}
	}
}
