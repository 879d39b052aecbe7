// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/node-agent/runtime"
)

// releaseOrphan lets a pod go on whose Migration no longer exists, and says
// whether nothing of it is held any more. While the digest was not published
// nobody can have committed. Once it was, the register has gone with the
// Migration and nobody can know: the tasks stay frozen until a person decides, by
// deleting the pod if the target runs, or by annotating it with
// v1alpha1.AnnotationResolve: Source if it does not.
func (a *Agent) releaseOrphan(ctx context.Context, h *held) (bool, error) {
	containers, err := a.Node.Finder.Containers(ctx, string(h.PodUID))
	if errors.Is(err, runtime.ErrNotFound) {
		return true, a.releaseHeld(ctx, h)
	}
	if err != nil {
		return false, fmt.Errorf("find the containers of an orphan: %w", err)
	}
	if h.Published {
		var pod corev1.Pod
		err := a.Live.Get(ctx, types.NamespacedName{Namespace: h.Namespace, Name: h.Pod}, &pod)
		switch {
		case apierrors.IsNotFound(err), err == nil && pod.UID != h.PodUID:
			return false, nil // kubelet ends what is left of a deleted pod
		case err != nil:
			return false, err
		case pod.Annotations[v1alpha1.AnnotationResolve] != string(v1alpha1.ResolveSource):
			a.Recorder.Eventf(&pod, nil, evOrphaned.kind, evOrphaned.reason, evOrphaned.action, evOrphaned.format, h.Migration, v1alpha1.AnnotationResolve, v1alpha1.ResolveSource)
			a.guardOrphan(h)
			return false, nil
		}
	}
	if err := a.settle(ctx, containers, h); err != nil {
		return false, err
	}
	if err := a.thaw(ctx, containers); err != nil {
		return false, err
	}
	ctrl.Log.WithName("orphans").Info("let a pod go on whose Migration is gone", "namespace", h.Namespace, "pod", h.Pod, "migration", h.Migration)
	orphansRemoved.WithLabelValues("freeze").Inc()
	return true, a.releaseHeld(ctx, h)
}

// guardOrphan keeps kubelet from starting a frozen orphan from its image.
func (a *Agent) guardOrphan(h *held) {
	if a.Node.Guard != nil {
		a.Node.Guard.Guard(string(h.PodUID), fmt.Sprintf("Migration %s/%s, which is gone, had handed it over", h.Namespace, h.Migration))
	}
}

func (a *Agent) releaseHeld(ctx context.Context, h *held) error {
	if a.Node.Guard != nil {
		a.Node.Guard.Release(string(h.PodUID))
	}
	return a.release(ctx, h.UID)
}

// settle waits for dumps that an earlier agent has begun, until the deadline
// they had. A dump that was given up has broken its chain and nothing else.
func (a *Agent) settle(ctx context.Context, containers []runtime.Container, h *held) error {
	for _, c := range containers {
		if err := a.Node.Checkpointer.Settle(ctx, c, h.Deadline); err != nil && !errors.Is(err, runtime.ErrGivenUp) {
			return err
		}
	}
	return nil
}

// thaw lets containers go on and connects the pod again; repeatable.
func (a *Agent) thaw(ctx context.Context, containers []runtime.Container) error {
	var errs []error
	for _, c := range containers {
		if err := a.Node.Freezer.Thaw(ctx, c); err != nil && !errors.Is(err, runtime.ErrNotFound) {
			errs = append(errs, fmt.Errorf("thaw %s: %w", c.Name, err))
		}
	}
	for _, c := range containers {
		if err := a.Node.Isolator.Connect(ctx, c); err != nil && !errors.Is(err, runtime.ErrNotFound) {
			errs = append(errs, fmt.Errorf("connect %s: %w", c.Name, err))
		}
	}
	return errors.Join(errs...)
}
