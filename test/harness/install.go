// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"context"
	"errors"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/api/v1alpha1"
	clusterclient "godwit.dev/godwit/test/cluster/client"
)

// AddressAnnotation pins a pod's address where the network plugin of test/pinned is
// installed.
const AddressAnnotation = "test.godwit.dev/address"

// installTimeout is generous: the nodes' processors are emulated.
const installTimeout = 6 * time.Minute

// Install installs or upgrades the chart and returns when the manager and the
// agents are up and every node is ready to take part in migrations.
func (h *Harness) Install(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, installTimeout, errors.New("the installation took too long"))
	defer cancel()
	if err := h.freeVolume(ctx); err != nil {
		return err
	}
	// The tag stays the same from build to build: with its digest as an
	// annotation the pods are replaced when the nodes have another image.
	digest, err := h.imageDigest(ctx, h.Godwit)
	if err != nil {
		return err
	}
	repository, tag := splitImage(h.Godwit)
	_, err = h.HelmRun(ctx, "upgrade", "--install", Release, h.Chart,
		"--namespace", Namespace, "--create-namespace",
		"--set", "image.repository="+repository,
		"--set", "image.tag="+tag,
		"--set", "images.storageClassName="+clusterclient.StorageClass,
		"--set", "images.size=10Gi",
		"--set", "manager.extraArgs={--address-annotations="+AddressAnnotation+"}",
		"--set-string", "manager.podAnnotations.image="+digest,
		"--set-string", "agent.podAnnotations.image="+digest,
		"--wait", "--timeout", installTimeout.String())
	if err != nil {
		return err
	}
	return h.AwaitReady(ctx)
}

// imageDigest is what a reference means on the first node.
func (h *Harness) imageDigest(ctx context.Context, ref string) (string, error) {
	digest, err := h.Nodes.Nodes()[0].Output(ctx, "ctr -n k8s.io images ls 'name=="+ref+"' | awk 'NR == 2 { print $3 }'")
	if err == nil && digest == "" {
		err = fmt.Errorf("the nodes have no image %s: import it first", ref)
	}
	return digest, err
}

// freeVolume lets a volume that an earlier installation has left behind be
// claimed again.
func (h *Harness) freeVolume(ctx context.Context) error {
	var volumes corev1.PersistentVolumeList
	if err := h.List(ctx, &volumes); err != nil {
		return err
	}
	for i := range volumes.Items {
		v := &volumes.Items[i]
		if v.Spec.StorageClassName != clusterclient.StorageClass || v.Status.Phase != corev1.VolumeReleased {
			continue
		}
		before := v.DeepCopy()
		v.Spec.ClaimRef = nil
		if err := h.Patch(ctx, v, client.MergeFrom(before)); err != nil {
			return fmt.Errorf("free volume %s: %w", v.Name, err)
		}
	}
	return nil
}

// AwaitReady returns when the manager and all agents run their newest version
// and every node is ready to take part in migrations.
func (h *Harness) AwaitReady(ctx context.Context) error {
	manager := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: Namespace, Name: Release + "-manager"}}
	err := h.Await(ctx, manager, "the manager", func(exists bool) (bool, error) {
		s := manager.Status
		return exists && s.ObservedGeneration >= manager.Generation && s.UpdatedReplicas == *manager.Spec.Replicas &&
			s.AvailableReplicas == s.UpdatedReplicas && s.Replicas == s.UpdatedReplicas, nil
	})
	if err != nil {
		return err
	}
	agents := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: Namespace, Name: Release + "-agent"}}
	err = h.Await(ctx, agents, "the agents", func(exists bool) (bool, error) {
		s := agents.Status
		return exists && s.ObservedGeneration >= agents.Generation && s.DesiredNumberScheduled > 0 &&
			s.UpdatedNumberScheduled == s.DesiredNumberScheduled && s.NumberReady == s.DesiredNumberScheduled, nil
	})
	if err != nil {
		return err
	}
	for _, n := range h.Nodes.Nodes() {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.Name}}
		if err := h.Await(ctx, node, "node "+n.Name+" to be ready for migrations", func(exists bool) (bool, error) {
			return exists && node.Labels[v1alpha1.LabelNodeReady] == "true", nil
		}); err != nil {
			return fmt.Errorf("%w; its agent says: %s", err, node.Annotations[v1alpha1.AnnotationNodeFacts])
		}
	}
	return nil
}

// FreshNamespace creates a namespace, and removes one of that name that an
// earlier run has left behind first.
func (h *Harness) FreshNamespace(ctx context.Context, name string) error {
	if err := h.RemoveNamespace(ctx, name); err != nil {
		return err
	}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if err := h.Create(ctx, ns); err != nil {
		return fmt.Errorf("create namespace: %w", err)
	}
	// Pods are refused until their service account is there.
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: name, Name: "default"}}
	return h.AwaitFor(ctx, time.Minute, account, "the service account of namespace "+name, func(exists bool) (bool, error) { return exists, nil })
}

// DeleteNamespace deletes a namespace, if it exists, and does not wait.
func (h *Harness) DeleteNamespace(ctx context.Context, name string) error {
	err := h.Delete(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete namespace: %w", err)
	}
	return nil
}

// RemoveNamespace deletes a namespace with all that is in it, and returns when
// it is gone.
func (h *Harness) RemoveNamespace(ctx context.Context, name string) error {
	if err := h.DeleteNamespace(ctx, name); err != nil {
		return err
	}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	return h.AwaitFor(ctx, 3*time.Minute, ns, "namespace "+name+" to be gone", func(exists bool) (bool, error) { return !exists, nil })
}
