// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/migration"
)

// conflict names another unfinished Migration that moves the pod and comes
// first: one that has begun, or else the older one.
func (r *MigrationReconciler) conflict(ctx context.Context, m *v1alpha1.Migration, source *corev1.Pod) (string, error) {
	list, err := r.byPod(ctx, m.Namespace, source.Name)
	if err != nil {
		return "", err
	}
	for i := range list {
		other := &list[i]
		if other.UID == m.UID || migration.Finished(other.Status.Phase) {
			continue
		}
		// The pod may also be what another Migration has just made.
		isTarget := other.Status.Target != nil && other.Status.Target.PodUID == source.UID
		if other.Spec.PodName != source.Name && !isTarget {
			continue
		}
		if isTarget || begun(other) || before(other, m) {
			return other.Name, nil
		}
	}
	return "", nil
}

// before orders Migrations by age, and within the same second by UID.
func before(a, b *v1alpha1.Migration) bool {
	if !a.CreationTimestamp.Equal(&b.CreationTimestamp) {
		return a.CreationTimestamp.Before(&b.CreationTimestamp)
	}
	return a.UID < b.UID
}

// blocked says why the migration cannot begin, from what the API knows of the
// pod, its volumes and the nodes; and finds out how the pod's name is to be passed on.
func (r *MigrationReconciler) blocked(ctx context.Context, w *world) (*v1alpha1.Failure, error) {
	m, source := w.Migration, w.source
	refusals := migration.CheckPod(source)
	claims, err := r.claims(ctx, source)
	if err != nil {
		return nil, err
	}
	refusals = append(refusals, migration.CheckVolumes(source, claims, m.Spec.VolumePolicy)...)
	facts := migration.HandoffFacts{Owner: metav1.GetControllerOf(source), Volumes: migration.HandedOver(source, claims, m.Spec.VolumePolicy),
		KeepConnections: m.Spec.Connections == v1alpha1.ConnectionsKeep}
	handoff := migration.HandoffOf(facts)
	w.handoff = &handoff
	refusals = append(refusals, migration.CheckHandoff(facts, m)...)
	if facts.KeepConnections {
		var failure *v1alpha1.Failure
		if w.connections, failure = migration.CheckConnections(source, r.AddressAnnotations); failure != nil {
			refusals = append(refusals, *failure)
		}
	}
	shared, err := r.shared(ctx, source, facts.Volumes)
	if err != nil {
		return nil, err
	}
	refusals = append(refusals, shared...)
	if len(refusals) > 0 {
		return migration.Refusal(refusals), nil
	}
	if r := migration.ReleaseOf(source); r != nil && r.Migration != m.UID {
		return &v1alpha1.Failure{Reason: v1alpha1.ReasonOwnedPod, Message: fmt.Sprintf(
			"the pod was released from its %s %q by a Migration that was removed by force; put back the labels and the owner that its annotation %s lists, and remove the annotation", r.Owner.Kind, r.Owner.Name, v1alpha1.AnnotationRelease)}, nil
	}
	if w.owner != nil {
		if failure, err := r.ownerBlocks(ctx, w); failure != nil || err != nil {
			return failure, err
		}
	}
	name := migration.TargetPodName(m)
	other, err := r.pod(ctx, m.Namespace, v1alpha1.PodRef{PodName: name})
	if err != nil {
		return nil, err
	}
	if other != nil {
		return &v1alpha1.Failure{Reason: v1alpha1.ReasonTargetPodExists,
			Message: fmt.Sprintf("there is a pod %q already; delete it or set spec.targetPodName to another name", name)}, nil
	}
	nodes, failure, err := r.candidates(ctx, m, source)
	if err != nil || failure != nil || handoff != v1alpha1.HandoffSameName {
		return failure, err
	}
	_, failure = migration.Attachable(nodes, claims)
	return failure, nil
}

func (r *MigrationReconciler) claims(ctx context.Context, pod *corev1.Pod) (map[string]migration.Claim, error) {
	claims := map[string]migration.Claim{}
	for _, name := range migration.ClaimNames(pod) {
		claim := &corev1.PersistentVolumeClaim{}
		// Read live: a watch on all claims of the cluster for a few reads would
		// cost more than it saves.
		err := r.APIReader.Get(ctx, types.NamespacedName{Namespace: pod.Namespace, Name: name}, claim)
		switch {
		case apierrors.IsNotFound(err):
		case err != nil:
			return nil, fmt.Errorf("read claim %s: %w", name, err)
		default:
			c := migration.Claim{Claim: claim}
			if c.Volume, err = r.volume(ctx, claim.Spec.VolumeName); err != nil {
				return nil, err
			}
			claims[name] = c
		}
	}
	return claims, nil
}

// volume reads a PersistentVolume; nil when there is none.
func (r *MigrationReconciler) volume(ctx context.Context, name string) (*corev1.PersistentVolume, error) {
	if name == "" {
		return nil, nil
	}
	v := &corev1.PersistentVolume{}
	err := r.APIReader.Get(ctx, types.NamespacedName{Name: name}, v)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read PersistentVolume %s: %w", name, err)
	}
	return v, nil
}

// candidates are the nodes that can take the pod, or why there are none.
func (r *MigrationReconciler) candidates(ctx context.Context, m *v1alpha1.Migration, source *corev1.Pod) ([]migration.NodeInfo, *v1alpha1.Failure, error) {
	return Candidates(ctx, r.Client, m, source)
}

// Candidates are the nodes that can take the Migration's pod, or why there are none.
func Candidates(ctx context.Context, reader client.Reader, m *v1alpha1.Migration, source *corev1.Pod) ([]migration.NodeInfo, *v1alpha1.Failure, error) {
	var list corev1.NodeList
	if err := reader.List(ctx, &list); err != nil {
		return nil, nil, fmt.Errorf("list the nodes: %w", err)
	}
	here := migration.NodeInfo{Name: source.Spec.NodeName, Facts: v1alpha1.NodeFacts{NotReady: "there is no such node"}}
	nodes := make([]migration.NodeInfo, 0, len(list.Items))
	for i := range list.Items {
		info := migration.NodeInfoOf(&list.Items[i])
		if info.Name == here.Name {
			here = info
		}
		nodes = append(nodes, info)
	}
	found, failure := migration.CheckNodes(m, here, nodes)
	return found, failure, nil
}
