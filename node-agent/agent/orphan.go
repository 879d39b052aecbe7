// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/node-agent/runtime"
)

// fate is what becomes of a pod whose Migration was removed by force after its
// digest was published. The register has gone with the Migration, and nobody can
// know whether a target has committed.
type fate int

const (
	// fateOpen: a person has to decide, by deleting the pod if the target runs, or
	// by annotating it with v1alpha1.AnnotationResolve: Source if it does not.
	fateOpen fate = iota
	// fateSource: a person has let the source go on.
	fateSource
	// fateGone: the pod was deleted.
	fateGone
)

// fateOf looks the pod of a Migration that is gone up, and asks for a decision.
func (a *Agent) fateOf(ctx context.Context, namespace, name string, uid types.UID, migration string) (fate, error) {
	var pod corev1.Pod
	err := a.Live.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, &pod)
	switch {
	case apierrors.IsNotFound(err), err == nil && pod.UID != uid:
		return fateGone, nil
	case err != nil:
		return fateOpen, err
	case pod.Annotations[v1alpha1.AnnotationResolve] == string(v1alpha1.ResolveSource):
		return fateSource, nil
	}
	a.Recorder.Eventf(&pod, nil, evOrphaned.kind, evOrphaned.reason, evOrphaned.action, evOrphaned.format, migration, v1alpha1.AnnotationResolve, v1alpha1.ResolveSource)
	return fateOpen, nil
}

// releaseOrphan lets a pod go on whose Migration no longer exists, and says
// whether nothing of it is held any more. While the digest was not published
// nobody can have committed. Once it was, the tasks stay frozen until its fate is
// known.
func (a *Agent) releaseOrphan(ctx context.Context, h *held) (bool, error) {
	containers, err := a.Node.Finder.Containers(ctx, string(h.PodUID))
	none := errors.Is(err, runtime.ErrNotFound)
	if err != nil && !none {
		return false, fmt.Errorf("find the containers of an orphan: %w", err)
	}
	if h.Published {
		switch f, err := a.fateOf(ctx, h.Namespace, h.Pod, h.PodUID, h.Migration); {
		case err != nil:
			return false, err
		case f == fateOpen:
			return false, a.guardOrphan(h)
		case f == fateGone && !none:
			return false, nil // kubelet ends what is left of a deleted pod
		}
	}
	if none {
		if err := a.thaw(ctx, h.Containers); err != nil {
			return false, err
		}
		return true, a.releaseHeld(ctx, h)
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
func (a *Agent) guardOrphan(h *held) error {
	if a.Node.Guard == nil {
		return nil
	}
	return a.Node.Guard.Guard(runtime.Guarded{
		Namespace: h.Namespace, Pod: h.Pod, PodUID: string(h.PodUID),
		Migration: h.Migration, MigrationUID: string(h.UID), BootID: a.BootID,
		Why: fmt.Sprintf("Migration %s/%s, which is gone, had handed it over", h.Namespace, h.Migration),
	})
}

// releaseGuarded lets new containers be created of a pod whose Migration no longer
// exists and that nothing is held of, and says whether it has. If the node has
// restarted since, the pod may have been handed over before.
func (a *Agent) releaseGuarded(ctx context.Context, g runtime.Guarded) (bool, error) {
	if g.BootID != a.BootID {
		f, err := a.fateOf(ctx, g.Namespace, g.Pod, types.UID(g.PodUID), g.Migration)
		if err != nil || f == fateOpen {
			return false, err
		}
	}
	if err := a.Node.Guard.Release(g.PodUID); err != nil {
		return false, err
	}
	orphansRemoved.WithLabelValues("guard").Inc()
	return true, nil
}

// guardFor is the node's record that it refuses new containers of a migration's
// source, nil when there is none.
func (a *Agent) guardFor(uid types.UID) (*runtime.Guarded, error) {
	if a.Node.Guard == nil {
		return nil, nil
	}
	all, err := a.Node.Guard.Guarded()
	if i := slices.IndexFunc(all, func(g runtime.Guarded) bool { return g.MigrationUID == string(uid) }); i >= 0 {
		return &all[i], nil
	}
	return nil, err
}

func (a *Agent) releaseHeld(ctx context.Context, h *held) error {
	if a.Node.Guard != nil {
		if err := a.Node.Guard.Release(string(h.PodUID)); err != nil {
			return err
		}
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
