// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"

	corev1 "k8s.io/api/core/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/node-agent/runtime"
)

// A pod that was moved keeps its gate, and kubelet runs that again in each new
// sandbox: after a restart of the node, or when the sandbox has ended. Then no
// session of a migration opens it, and its containers are to start from their
// image, as those of any other pod.

func (a *Agent) setupGates(mgr ctrl.Manager) error {
	gated := predicate.NewPredicateFuncs(func(o client.Object) bool {
		pod, ok := o.(*corev1.Pod)
		return ok && gateID(pod) != ""
	})
	return ctrl.NewControllerManagedBy(mgr).
		Named("gates").
		For(&corev1.Pod{}, builder.WithPredicates(gated)).
		Complete(reconcile.Func(a.reconcileGate))
}

// reconcileGate opens the gate of a pod that was moved before. While a migration
// to the pod is under way, its session does that, or a person decides.
func (a *Agent) reconcileGate(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	var pod corev1.Pod
	if err := a.Client.Get(ctx, req.NamespacedName, &pod); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if gateID(&pod) == "" || pod.DeletionTimestamp != nil {
		return reconcile.Result{}, nil
	}
	m, err := a.parking.migrationOf(ctx, string(pod.UID))
	if err != nil {
		return reconcile.Result{}, err
	}
	switch {
	case m == nil && !wasMoved(&pod):
		// Its Migration is not in the cache yet; or it was removed by force, and then
		// the pod's creates are refused too.
		return reconcile.Result{}, nil
	case m != nil && !targetOwns(m):
		return reconcile.Result{RequeueAfter: a.Timeouts.Sweep}, nil
	}
	ctrl.LoggerFrom(ctx).Info("opening the gate of a pod that was moved before and starts again")
	return reconcile.Result{}, a.endGate(ctx, &pod)
}

// wasMoved says whether a container of a target pod has run: none does but by a
// restore, or after one.
func wasMoved(pod *corev1.Pod) bool {
	return !slices.ContainsFunc(pod.Spec.Containers, func(c corev1.Container) bool { return !hasRun(pod, c.Name) })
}

// errSignalGate: the gate runs and cannot be told to end.
var errSignalGate = errors.New("end the gate")

// endGate ends the gate, so that kubelet goes on to create the pod's containers.
// One that has ended already is not an error.
func (a *Agent) endGate(ctx context.Context, pod *corev1.Pod) error {
	c, err := a.Node.Finder.Container(ctx, gateID(pod))
	if errors.Is(err, runtime.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find the gate: %w", err)
	}
	if err := a.Node.Killer.Signal(ctx, c, int(syscall.SIGTERM)); err != nil && !errors.Is(err, runtime.ErrNotFound) {
		return fmt.Errorf("%w: %w", errSignalGate, err)
	}
	return nil
}

// gateID is the container id of the running gate, "" when it does not run.
func gateID(pod *corev1.Pod) string {
	if pod == nil {
		return ""
	}
	for _, s := range pod.Status.InitContainerStatuses {
		if s.Name == v1alpha1.GateContainerName && s.State.Running != nil {
			return trimScheme(s.ContainerID)
		}
	}
	return ""
}
