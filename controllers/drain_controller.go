// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrlevent "sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/migration"
)

// drainInterval is how often a node that is drained is looked at again: for attempts
// whose backoff is over, and for pods that came since.
const drainInterval = 10 * time.Second

// DrainReconciler has the pods of nodes that are being emptied evacuated, without
// waiting for evictions. It answers each pod as the webhook would an eviction, but
// evicts nothing: what may go, goes when it is evicted.
type DrainReconciler struct {
	// Client reads from the cache and creates Migrations.
	Client client.Client
	// Live reads from the API server what no cache is kept of.
	Live client.Reader
	// Clock tells the time.
	Clock clock.PassiveClock
	// Retries bound how often a pod is tried to be moved.
	Retries migration.Retries
}

// SetupWithManager registers the reconciler. The indexes have to be there.
func (r *DrainReconciler) SetupWithManager(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).
		Named("drain").
		For(&corev1.Node{}, builder.WithPredicates(drainChanges())).
		Complete(r)
}

// Reconcile looks at one node.
func (r *DrainReconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	node := &corev1.Node{}
	if err := r.Client.Get(ctx, req.NamespacedName, node); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if migration.DrainOf(node) == nil {
		return reconcile.Result{}, nil
	}
	var pods corev1.PodList
	if err := r.Client.List(ctx, &pods, client.MatchingFields{IndexNode: node.Name}); err != nil {
		return reconcile.Result{}, fmt.Errorf("list the pods of node %s: %w", node.Name, err)
	}
	for i := range pods.Items {
		if err := r.evacuate(ctx, node, &pods.Items[i]); err != nil {
			return reconcile.Result{}, err
		}
	}
	return reconcile.Result{RequeueAfter: drainInterval}, nil
}

func (r *DrainReconciler) evacuate(ctx context.Context, node *corev1.Node, pod *corev1.Pod) error {
	facts := migration.EvictionFacts{Now: r.Clock.Now(), Pod: pod, UID: pod.UID, Retries: r.Retries, NodeDrains: true}
	if err := Gather(ctx, r.Client, r.Live, node, &facts); err != nil {
		return err
	}
	m := migration.JudgeEviction(facts).Create
	if m == nil {
		return nil
	}
	switch err := r.Client.Create(ctx, m, client.FieldOwner(v1alpha1.FieldManagerController)); {
	case err == nil:
		ctrl.LoggerFrom(ctx).Info("a drain has triggered an evacuation", "pod", client.ObjectKeyFromObject(pod), "migration", m.Name, "by", migration.DrainOf(node).By)
	case apierrors.IsAlreadyExists(err), apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
	default:
		return fmt.Errorf("create migration %s: %w", m.Name, err)
	}
	return nil
}

// Gather completes what is known of an eviction's pod: its Migrations, its policy, and
// how soon its node has to be empty.
func Gather(ctx context.Context, reader, live client.Reader, node *corev1.Node, facts *migration.EvictionFacts) error {
	pod := facts.Pod
	list := &v1alpha1.MigrationList{}
	if err := reader.List(ctx, list, client.InNamespace(pod.Namespace), client.MatchingFields{IndexPods: pod.Name}); err != nil {
		return fmt.Errorf("list the pod's Migrations: %w", err)
	}
	facts.Migrations = list.Items
	facts.NodeDrains = migration.Leaving(node)
	var err error
	if facts.Deadline, err = drainDeadline(ctx, live, node); err != nil {
		return err
	}
	facts.Policy, err = PolicyOf(ctx, reader, pod)
	return err
}

// drainDeadline is when a node has to be empty. A NodeClaim is looked at only for a node
// that Karpenter empties, and one that cannot be read says nothing.
func drainDeadline(ctx context.Context, live client.Reader, node *corev1.Node) (time.Time, error) {
	owner := migration.NodeClaimOf(node)
	if owner == nil {
		return migration.DrainDeadline(node, nil), nil
	}
	claim := &metav1.PartialObjectMetadata{}
	claim.SetGroupVersionKind(schema.FromAPIVersionAndKind(owner.APIVersion, owner.Kind))
	switch err := live.Get(ctx, types.NamespacedName{Name: owner.Name}, claim); {
	case err == nil && claim.UID == owner.UID:
		return migration.DrainDeadline(node, claim), nil
	case err == nil, apierrors.IsNotFound(err), apierrors.IsForbidden(err), meta.IsNoMatchError(err):
		return migration.DrainDeadline(node, nil), nil
	default:
		return time.Time{}, fmt.Errorf("read the NodeClaim of node %s: %w", node.Name, err)
	}
}

// drainChanges lets through nodes that are marked, or begin to be. Kubelets write
// their Nodes all the time.
func drainChanges() predicate.Predicate {
	marked := func(o client.Object) bool {
		node, ok := o.(*corev1.Node)
		return ok && migration.DrainOf(node) != nil
	}
	return predicate.Funcs{
		CreateFunc: func(e ctrlevent.CreateEvent) bool { return marked(e.Object) },
		UpdateFunc: func(e ctrlevent.UpdateEvent) bool { return marked(e.ObjectNew) && !marked(e.ObjectOld) },
		DeleteFunc: func(ctrlevent.DeleteEvent) bool { return false },
	}
}
