// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/failpoint"
	"godwit.dev/godwit/internal/migration"
)

// errOutdated explains the conflict that is returned when the live Migration
// does not allow what was decided on the cached one.
var errOutdated = errors.New("the Migration has changed since it was read from the cache")

// deletionGrace is how long kubelet waits for a pod's containers to end before
// it kills them. The source's are frozen and cannot react to a signal, so waiting
// is for nothing; only kubelet may kill them, though: killed by anyone else
// before kubelet has seen the deletion, they would be started afresh. The
// target's are a gate, or creates that its agent gives back.
const deletionGrace = time.Second

// act does what a decision asks for outside the Migration itself. It returns
// the decision to store: the same one, or an abort when the API server has
// refused the step for good. Every step may be repeated.
func (r *MigrationReconciler) act(ctx context.Context, w *world, d migration.Decision) (migration.Decision, error) {
	switch d.Action {
	case migration.CreateTarget:
		return r.createTarget(ctx, w, d)
	case migration.ReleaseSource:
		return r.releaseSource(ctx, w, d)
	case migration.Arm:
		return r.arm(ctx, w, d)
	case migration.MakeAgain:
		return r.makeAgain(ctx, w, d)
	case migration.DeletePlaceholder:
		err := r.deletePod(ctx, w.Migration, w.placeholder, mayDeletePlaceholder)
		failpoint.At("manager-placeholder-deleted")
		return d, err
	case migration.DropPlaceholder:
		return d, r.dropPod(ctx, w.Migration, w.placeholder, mayDropPlaceholder)
	case migration.MarkTarget:
		return d, r.markTarget(ctx, w)
	case migration.ReturnSource:
		return d, r.returnSource(ctx, w)
	case migration.SettleSource:
		return d, r.settleSource(ctx, w)
	case migration.CountTarget:
		return d, r.countTarget(ctx, w)
	case migration.DeleteSource:
		return d, r.deletePod(ctx, w.Migration, w.source, mayDeleteSource)
	case migration.DeleteTarget:
		return d, r.dropPod(ctx, w.Migration, w.target, mayDeleteTarget)
	}
	return d, nil
}

// createTarget creates the target pod.
func (r *MigrationReconciler) createTarget(ctx context.Context, w *world, d migration.Decision) (migration.Decision, error) {
	m := w.Migration
	// A pod created after the migration was given up would be nobody's.
	if err := r.confirm(ctx, m, func(live *v1alpha1.Migration) bool {
		return live.Status.Phase == v1alpha1.PhasePreCopying && live.Status.Handover == nil && !migration.CancelRequested(live)
	}); err != nil {
		return d, err
	}
	claims, err := r.claimsToHandOver(ctx, w)
	if err != nil {
		return d, err
	}
	if migration.SameName(m) {
		if missing, failure, err := r.rehearseSameName(ctx, w, claims); err != nil || failure != nil || missing != "" {
			return rehearsed(d, "copying memory", missing, failure), err
		}
	}
	nodes, failure, err := r.candidates(ctx, m, w.source)
	if err != nil {
		return d, err
	}
	if failure == nil {
		nodes, failure = migration.Attachable(nodes, claims)
	}
	if failure != nil {
		return abort(failure), nil
	}
	if nodes, err = r.spread(ctx, m, nodes); err != nil {
		return d, err
	}
	if len(nodes) == 0 {
		d.Action, d.Message = migration.Wait, "copying memory; each node that could take the pod is the target of as many migrations as may go there"
		d.RequeueAfter = migration.Deadline(m).Sub(w.Now) + time.Millisecond
		return d, nil
	}
	hostnames := make([]string, len(nodes))
	for i := range nodes {
		hostnames[i] = nodes[i].Hostname()
	}
	pod := migration.BuildTargetPod(w.source, m, r.GateImage, r.GatePullPolicy, hostnames)
	if migration.SameName(m) {
		if pod, err = r.placeholder(w, claims, hostnames); err != nil {
			return d, err
		}
	}
	name := pod.Name
	failpoint.At("manager-target-creating")
	err = r.Client.Create(ctx, pod)
	refused, missing := refusesPod(err)
	switch {
	case err == nil:
		ctrl.LoggerFrom(ctx).Info("created the target pod", "pod", name, "podUID", pod.UID)
	case apierrors.IsAlreadyExists(err):
		// Ours, from a pass that could not record it, or somebody else's.
		pod, err = r.pod(ctx, m.Namespace, v1alpha1.PodRef{PodName: name})
		if err != nil {
			return d, err
		}
		if pod == nil || !madeFor(m, pod) {
			return abort(&v1alpha1.Failure{Reason: v1alpha1.ReasonTargetPodExists,
				Message: fmt.Sprintf("there is a pod %q already; delete it or set spec.targetPodName to another name", name)}), nil
		}
	case refused:
		return abort(&v1alpha1.Failure{Reason: v1alpha1.ReasonTargetPodCreateRefused,
			Message: "the API server refuses the target pod: " + err.Error()}), nil
	case missing != "":
		return rehearsed(d, "copying memory", missing, nil), nil
	default:
		return d, fmt.Errorf("create target pod %s: %w", name, err)
	}
	failpoint.At("manager-target-created")
	w.target, w.Target = pod, podFacts(pod)
	return d, nil
}

func abort(f *v1alpha1.Failure) migration.Decision {
	return migration.Decision{Action: migration.Abort, Phase: v1alpha1.PhaseRollingBack, Failure: f, Message: "rolling back: " + f.Message}
}

// mayDeleteSource: the register is committed and the target confirmed, or the source
// given up so that the target can have its name.
func mayDeleteSource(live *v1alpha1.Migration, pod *corev1.Pod) bool {
	return live.Status.Handover != nil && live.Status.Handover.State == v1alpha1.HandoverCommitted &&
		(live.Status.Phase == v1alpha1.PhaseCompleting || live.Status.Phase == v1alpha1.PhaseReplacing) &&
		live.Status.Source != nil && live.Status.Source.PodUID == pod.UID
}

// mayDeleteTarget: the register is aborted, and the pod is this Migration's.
func mayDeleteTarget(live *v1alpha1.Migration, pod *corev1.Pod) bool {
	if live.Status.Handover == nil || live.Status.Handover.State != v1alpha1.HandoverAborted {
		return false
	}
	if t := live.Status.Target; t != nil && t.PodUID != "" {
		return t.PodUID == pod.UID
	}
	return madeFor(live, pod)
}

// deletePod deletes the pod, and never another of its name, when the Migration
// as it is on the API server allows it.
func (r *MigrationReconciler) deletePod(ctx context.Context, m *v1alpha1.Migration, pod *corev1.Pod, may func(*v1alpha1.Migration, *corev1.Pod) bool) error {
	if err := r.confirm(ctx, m, func(live *v1alpha1.Migration) bool { return may(live, pod) }); err != nil {
		return err
	}
	failpoint.In("manager-deleting", string(m.Status.Phase))
	err := r.Client.Delete(ctx, pod, client.GracePeriodSeconds(int64(deletionGrace.Seconds())), client.Preconditions{UID: &pod.UID})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		// A conflict means that a pod of the same name took its place.
		return fmt.Errorf("delete pod %s: %w", pod.Name, err)
	}
	failpoint.In("manager-deleted", string(m.Status.Phase))
	ctrl.LoggerFrom(ctx).Info("deleted a pod", "pod", pod.Name, "podUID", pod.UID)
	return nil
}

// confirm reads the Migration from the API server and returns a conflict
// unless it is the same object and still allows the step.
func (r *MigrationReconciler) confirm(ctx context.Context, m *v1alpha1.Migration, allows func(*v1alpha1.Migration) bool) error {
	live := &v1alpha1.Migration{}
	key := types.NamespacedName{Namespace: m.Namespace, Name: m.Name}
	if err := r.APIReader.Get(ctx, key, live); err != nil {
		return fmt.Errorf("confirm: %w", err)
	}
	if live.UID != m.UID || !allows(live) {
		return apierrors.NewConflict(v1alpha1.GroupVersion.WithResource("migrations").GroupResource(), m.Name, errOutdated)
	}
	return nil
}
