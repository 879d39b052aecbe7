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
	// placeholder of a pod that keeps its name; only from the phase Replacing on.
	placeholder *corev1.Pod
	// owner is the pod's workload controller, ownerObject what it is now; nil when
	// there is none.
	owner       *v1alpha1.OwnerStatus
	ownerObject client.Object
	// nodeUID of the target's Node, to be recorded; empty when it is, or may not
	// be any more.
	nodeUID types.UID
	// handoff of the pod's name, to be recorded; nil when it is, or could not be found out.
	handoff *v1alpha1.Handoff
	// policy that holds for the source, to be recorded; nil when it is.
	policy *v1alpha1.EffectivePolicy
	// connections that are to be kept, to be recorded before the migration begins.
	connections *v1alpha1.ConnectionsStatus
}

// observe gathers what Decide looks at.
func (r *MigrationReconciler) observe(ctx context.Context, m *v1alpha1.Migration) (*world, error) {
	w := &world{Observation: migration.Observation{Now: r.Clock.Now(), Migration: m}}
	pods, err := r.podsBeside(ctx, m)
	if err != nil {
		return nil, err
	}
	if w.source, err = r.sourcePod(ctx, m); err != nil {
		return nil, err
	}
	w.Source = podFacts(w.source)
	if w.target, err = r.targetPod(ctx, m); err != nil {
		return nil, err
	}
	w.Target = podFacts(w.target)
	if err := r.observePlaceholder(ctx, w); err != nil {
		return nil, err
	}
	if err := r.observeOwner(ctx, w, pods); err != nil {
		return nil, err
	}
	w.Target.Started = started(w.target, m.Status.Target)
	if m.Status.Policy == nil && w.source != nil {
		p, err := PolicyOf(ctx, r.Client, w.source)
		if err != nil {
			return nil, err
		}
		w.policy = &p.Effective
	}
	if !begun(m) && w.source != nil {
		if w.Conflict, err = r.conflict(ctx, m, w.source); err != nil {
			return nil, err
		}
		if w.Blocked, err = r.blocked(ctx, w); err != nil {
			return nil, err
		}
	}
	if err := r.observeQueue(ctx, w); err != nil {
		return nil, err
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
// pod has the name; for an evacuation only the one that was to be evicted.
func sourceRef(m *v1alpha1.Migration) v1alpha1.PodRef {
	if m.Status.Source != nil && m.Status.Source.PodUID != "" {
		return m.Status.Source.PodRef
	}
	return v1alpha1.PodRef{PodName: m.Spec.PodName, PodUID: types.UID(m.Labels[v1alpha1.LabelEvacuationOf])}
}

// targetPod is the recorded target pod, or one that was created for this very
// Migration without being recorded.
func (r *MigrationReconciler) targetPod(ctx context.Context, m *v1alpha1.Migration) (*corev1.Pod, error) {
	if !begun(m) {
		return nil, nil
	}
	if replaced(m) {
		return r.successor(ctx, m)
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
	return podFrom(ctx, namespace, ref, r.Client, r.APIReader)
}

// podFrom returns the pod from the first of the readers that has it.
func podFrom(ctx context.Context, namespace string, ref v1alpha1.PodRef, readers ...client.Reader) (*corev1.Pod, error) {
	key := types.NamespacedName{Namespace: namespace, Name: ref.PodName}
	for _, reader := range readers {
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

// sourcePod returns nil if the source does not exist. A pod that would be refused is
// read again from the API server: a refusal ends the Migration, and a cache that is
// behind may show a pod that has just become ready as one that is not.
func (r *MigrationReconciler) sourcePod(ctx context.Context, m *v1alpha1.Migration) (*corev1.Pod, error) {
	pod, err := r.pod(ctx, m.Namespace, sourceRef(m))
	if err != nil || pod == nil || begun(m) || len(migration.CheckPod(pod)) == 0 {
		return pod, err
	}
	return podFrom(ctx, m.Namespace, sourceRef(m), r.APIReader)
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
		Held:          migration.IsHeld(pod),
		Phase:         pod.Status.Phase,
		Unschedulable: unschedulable(pod),
	}
}

// started says whether kubelet has seen every container of the
// target run, its sidecars included; one that has ended since did run. It must have been the container
// that was restored, as far as the status says which: anything else that ran
// would be a second copy, started from its image.
func started(pod *corev1.Pod, t *v1alpha1.TargetStatus) bool {
	if pod == nil {
		return false
	}
	all := migration.Containers(pod)
	for _, c := range all {
		if s := migration.ContainerStatus(pod, c.Name); s == nil || !migration.HasRun(s, restoredID(t, c.Name)) {
			return false
		}
	}
	return len(all) > 0
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
