// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/migration"
)

// world is what one pass has seen: the facts to decide on, and the objects
// behind them to act on. The pods are nil when they do not exist.
type world struct {
	migration.Observation
	source, target *corev1.Pod
	// nodeUID of the target's Node, to be recorded; empty when it is, or may not
	// be any more.
	nodeUID types.UID
}

// observe gathers what Decide looks at.
func (r *MigrationReconciler) observe(ctx context.Context, m *v1alpha1.Migration) (*world, error) {
	w := &world{Observation: migration.Observation{Now: r.Clock.Now(), Migration: m}}
	var err error
	if w.source, err = r.pod(ctx, m.Namespace, sourceRef(m)); err != nil {
		return nil, err
	}
	w.Source = podFacts(w.source)
	if w.target, err = r.targetPod(ctx, m); err != nil {
		return nil, err
	}
	w.Target = podFacts(w.target)
	w.Target.Started = started(w.target, m.Status.Target)
	if !begun(m) && w.source != nil {
		if w.Conflict, err = r.conflict(ctx, m, w.source); err != nil {
			return nil, err
		}
		if w.Blocked, err = r.blocked(ctx, m, w.source); err != nil {
			return nil, err
		}
	}
	if err := r.observeNode(ctx, w); err != nil {
		return nil, err
	}
	return w, r.observeRequest(ctx, w)
}

// begun says whether the migration has got as far as touching anything.
func begun(m *v1alpha1.Migration) bool {
	switch m.Status.Phase {
	case "", v1alpha1.PhasePending, v1alpha1.PhasePreparing:
		return false
	}
	return true
}

// sourceRef is the recorded source pod, or, before it is recorded, whichever
// pod has the name.
func sourceRef(m *v1alpha1.Migration) v1alpha1.PodRef {
	if m.Status.Source != nil && m.Status.Source.PodUID != "" {
		return m.Status.Source.PodRef
	}
	return v1alpha1.PodRef{PodName: m.Spec.PodName}
}

// targetPod is the recorded target pod, or one that was created for this very
// Migration without being recorded.
func (r *MigrationReconciler) targetPod(ctx context.Context, m *v1alpha1.Migration) (*corev1.Pod, error) {
	if !begun(m) {
		return nil, nil
	}
	if t := m.Status.Target; t != nil && t.PodUID != "" {
		return r.pod(ctx, m.Namespace, t.PodRef)
	}
	pod, err := r.pod(ctx, m.Namespace, v1alpha1.PodRef{PodName: migration.TargetPodName(m)})
	if err != nil || pod == nil || !madeFor(m, pod) {
		return nil, err
	}
	return pod, nil
}

// madeFor says whether the controller created the pod for this Migration.
func madeFor(m *v1alpha1.Migration, pod *corev1.Pod) bool {
	return pod.Labels[v1alpha1.LabelMigration] == string(m.UID)
}

// pod returns the pod of that name, and UID when there is one; nil when it does
// not exist. That it does not is only believed of the API server: the cache may
// not have seen a pod that was created a moment ago.
func (r *MigrationReconciler) pod(ctx context.Context, namespace string, ref v1alpha1.PodRef) (*corev1.Pod, error) {
	key := types.NamespacedName{Namespace: namespace, Name: ref.PodName}
	for _, reader := range []client.Reader{r.Client, r.APIReader} {
		pod := &corev1.Pod{}
		switch err := reader.Get(ctx, key, pod); {
		case apierrors.IsNotFound(err):
		case err != nil:
			return nil, fmt.Errorf("read pod %s: %w", key, err)
		case ref.PodUID == "" || pod.UID == ref.PodUID:
			return pod, nil
		}
	}
	return nil, nil
}

func podFacts(pod *corev1.Pod) migration.PodFacts {
	if pod == nil {
		return migration.PodFacts{}
	}
	return migration.PodFacts{
		Exists:        true,
		UID:           pod.UID,
		NodeName:      pod.Spec.NodeName,
		Deleting:      pod.DeletionTimestamp != nil,
		Phase:         pod.Status.Phase,
		Unschedulable: unschedulable(pod),
	}
}

// started says whether kubelet has seen every application container of the
// target run; one that has ended since did run. It must have been the container
// that was restored, as far as the status says which: anything else that ran
// would be a second copy, started from its image.
func started(pod *corev1.Pod, t *v1alpha1.TargetStatus) bool {
	if pod == nil {
		return false
	}
	seen := map[string]bool{}
	for i := range pod.Status.ContainerStatuses {
		s := &pod.Status.ContainerStatuses[i]
		seen[s.Name] = migration.HasRun(s, restoredID(t, s.Name))
	}
	for _, c := range pod.Spec.Containers {
		if !seen[c.Name] {
			return false
		}
	}
	return len(pod.Spec.Containers) > 0
}

// restoredID is the runtime's id of a container that the target restores.
func restoredID(t *v1alpha1.TargetStatus, name string) string {
	if t == nil {
		return ""
	}
	for _, c := range t.Containers {
		if c.Name == name {
			return c.ContainerID
		}
	}
	return ""
}

func unschedulable(pod *corev1.Pod) string {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			if c.Message == "" {
				return c.Reason
			}
			return c.Message
		}
	}
	return ""
}
