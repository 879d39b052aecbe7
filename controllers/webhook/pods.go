// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package webhook

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/controllers"
	"godwit.dev/godwit/internal/failpoint"
	"godwit.dev/godwit/internal/migration"
)

// Pods makes the pod that a workload controller creates in place of a released
// source the Migration's target. It asks the cache whether a created pod may be
// one, which nearly none is, and then the API server whether it is.
type Pods struct {
	// Cache is asked first; it has the index controllers.IndexOwners, and Nodes.
	Cache client.Reader
	// Live reads from the API server.
	Live client.Reader
	// Decoder of admission requests.
	Decoder admission.Decoder
	// Clock tells the time.
	Clock clock.PassiveClock
	// GateImage and GatePullPolicy as in MigrationReconciler.
	GateImage      string
	GatePullPolicy corev1.PullPolicy
}

// Handle answers the creation of a pod.
func (p *Pods) Handle(ctx context.Context, req admission.Request) admission.Response {
	pod := &corev1.Pod{}
	if err := p.Decoder.Decode(req, pod); err != nil {
		return admission.Errored(http.StatusBadRequest, err)
	}
	pod.Namespace = req.Namespace
	ref := metav1.GetControllerOf(pod)
	if ref == nil || !migration.Movable(ref) {
		return admission.Allowed("")
	}
	list, err := controllers.ByOwner(ctx, p.Cache, pod.Namespace, ref.UID)
	if err != nil {
		// Only a cache that was set up wrongly fails, and that must stop nobody.
		ctrl.LoggerFrom(ctx).Error(err, "cannot find the Migrations of an owner", "namespace", pod.Namespace, "owner", ref.Name)
		return admission.Allowed("")
	}
	// The oldest first, so that several webhooks agree.
	slices.SortFunc(list, func(a, b v1alpha1.Migration) int {
		if c := a.CreationTimestamp.Compare(b.CreationTimestamp.Time); c != 0 {
			return c
		}
		return slices.Compare([]byte(a.UID), []byte(b.UID))
	})
	held := ""
	for i := range list {
		if !p.matters(&list[i]) {
			continue
		}
		o, err := p.observe(ctx, &list[i], pod)
		if err != nil {
			return admission.Errored(http.StatusInternalServerError, err)
		}
		if o == nil {
			continue
		}
		o.DryRun = req.DryRun != nil && *req.DryRun
		switch verdict, why := migration.Steer(*o); verdict {
		case migration.SteerTake:
			return p.take(ctx, req, o)
		case migration.SteerHold:
			held = why
		}
	}
	if held != "" {
		ctrl.LoggerFrom(ctx).Info("held back a pod", "namespace", pod.Namespace, "owner", ref.Name, "why", held)
		return admission.Denied(held)
	}
	return admission.Allowed("")
}

// observe reads what is to be decided on from the API server; nil when the
// Migration is gone.
func (p *Pods) observe(ctx context.Context, cached *v1alpha1.Migration, pod *corev1.Pod) (*migration.SteerObservation, error) {
	m := &v1alpha1.Migration{}
	switch err := p.Live.Get(ctx, client.ObjectKeyFromObject(cached), m); {
	case apierrors.IsNotFound(err), err == nil && m.UID != cached.UID:
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read Migration %s: %w", cached.Name, err)
	}
	o := &migration.SteerObservation{Migration: m, Pod: pod}
	var err error
	if s := m.Status.Source; s != nil {
		if o.Source, err = p.read(ctx, m.Namespace, s.PodName); err != nil {
			return nil, err
		}
		if o.Source != nil && o.Source.UID != s.PodUID {
			o.Source = nil
		}
	}
	if o.Target, err = p.read(ctx, m.Namespace, migration.TargetPodName(m)); err != nil {
		return nil, err
	}
	if m.Status.Owner != nil {
		o.Full, err = controllers.OwnerIsFull(ctx, p.Live, m.Status.Owner, pod)
	}
	return o, err
}

// afterwards is how long a controller may take to see what a Migration that is over
// has done to its pods.
const afterwards = 10 * time.Second

// matters says whether a pod that is created now may have to do with the Migration.
func (p *Pods) matters(m *v1alpha1.Migration) bool {
	return !migration.Finished(m.Status.Phase) || m.Status.CompletionTime != nil && p.Clock.Since(m.Status.CompletionTime.Time) < afterwards
}

func (p *Pods) read(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	pod := &corev1.Pod{}
	switch err := p.Live.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, pod); {
	case apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read pod %s: %w", name, err)
	}
	return pod, nil
}

// take answers with the patch that makes the pod the target.
func (p *Pods) take(ctx context.Context, req admission.Request, o *migration.SteerObservation) admission.Response {
	m := o.Migration
	if migration.SameName(m) {
		return p.takeName(ctx, req, o)
	}
	nodes, failure, err := controllers.Candidates(ctx, p.Cache, m, o.Source)
	if err != nil {
		return admission.Errored(http.StatusInternalServerError, err)
	}
	if failure != nil {
		// Made anywhere else it would be a second copy.
		return admission.Denied(failure.Message)
	}
	hostnames := make([]string, len(nodes))
	for i := range nodes {
		hostnames[i] = nodes[i].Hostname()
	}
	return answer(ctx, req, o, migration.SteerPod(o.Pod, o.Source, m, p.GateImage, p.GatePullPolicy, hostnames))
}

// takeName is take for a pod that keeps its name.
func (p *Pods) takeName(ctx context.Context, req admission.Request, o *migration.SteerObservation) admission.Response {
	m := o.Migration
	hostname := ""
	if t := m.Status.Target; t != nil && t.NodeName != "" {
		var node corev1.Node
		if err := p.Cache.Get(ctx, types.NamespacedName{Name: t.NodeName}, &node); err != nil {
			return admission.Errored(http.StatusInternalServerError, fmt.Errorf("read the target's node: %w", err))
		}
		info := migration.NodeInfoOf(&node)
		hostname = info.Hostname()
	}
	target, err := migration.SameNamePod(o.Pod, o.Target, m, p.GateImage, p.GatePullPolicy, hostname)
	if err != nil {
		return admission.Errored(http.StatusInternalServerError, err)
	}
	return answer(ctx, req, o, target)
}

func answer(ctx context.Context, req admission.Request, o *migration.SteerObservation, target *corev1.Pod) admission.Response {
	m := o.Migration
	raw, err := json.Marshal(target)
	if err != nil {
		return admission.Errored(http.StatusInternalServerError, err)
	}
	if !o.DryRun {
		failpoint.At("manager-steering")
		ctrl.LoggerFrom(ctx).Info("made a pod a Migration's target", "namespace", m.Namespace, "migration", m.Name, "pod", target.Name)
	}
	return admission.PatchResponseFromRaw(req.Object.Raw, raw)
}

// TargetPods refuses pods that look like a Migration's target and are none. The
// manager's own need not ask.
type TargetPods struct {
	// Live reads from the API server.
	Live client.Reader
	// Decoder of admission requests.
	Decoder admission.Decoder
}

// Handle answers the creation of a pod that runs under Godwit's RuntimeClass or
// bears its labels.
func (p *TargetPods) Handle(ctx context.Context, req admission.Request) admission.Response {
	pod := &corev1.Pod{}
	if err := p.Decoder.Decode(req, pod); err != nil {
		return admission.Errored(http.StatusBadRequest, err)
	}
	const refused = "RuntimeClass godwit is for the target pods of Migrations, and this is none; to move a pod, create a Migration"
	namespace, name, err := migration.SplitAnnotation(pod.Annotations[v1alpha1.AnnotationMigration])
	if err != nil || namespace != req.Namespace {
		return admission.Denied(refused)
	}
	m := &v1alpha1.Migration{}
	switch err := p.Live.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, m); {
	case apierrors.IsNotFound(err):
		return admission.Denied(refused)
	case err != nil:
		return admission.Errored(http.StatusInternalServerError, fmt.Errorf("read Migration %s: %w", name, err))
	}
	if !migration.IsTarget(m, pod) {
		return admission.Denied(refused)
	}
	return admission.Allowed("")
}
