// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package webhook

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"godwit.dev/godwit/internal/migration"
)

// Paths that the API server calls; the configurations name them.
const (
	// PathEvictions answers evictions of pods.
	PathEvictions = "/evictions"
	// PathPods steers pods that workload controllers create.
	PathPods = "/pods"
	// PathTargetPods refuses pods that look like targets and are none.
	PathTargetPods = "/target-pods"
)

// Options of the webhooks.
type Options struct {
	// GateImage and GatePullPolicy as of MigrationReconciler.
	GateImage      string
	GatePullPolicy corev1.PullPolicy
	// Retries bound how often an evacuation is tried.
	Retries migration.Retries
	// Namespace that the manager runs in.
	Namespace string
}

// Setup registers all webhooks with the manager's server. The reconcilers have to
// be set up before: handlers use their indexes.
func Setup(mgr ctrl.Manager, o Options) {
	server := mgr.GetWebhookServer()
	decoder := admission.NewDecoder(mgr.GetScheme())
	server.Register(PathPods, &admission.Webhook{Handler: &Pods{
		Cache: mgr.GetClient(), Live: mgr.GetAPIReader(), Decoder: decoder, Clock: clock.RealClock{},
		GateImage: o.GateImage, GatePullPolicy: o.GatePullPolicy,
	}})
	server.Register(PathTargetPods, &admission.Webhook{Handler: &TargetPods{Live: mgr.GetAPIReader(), Decoder: decoder}})
	server.Register(PathEvictions, &admission.Webhook{Handler: &Evictions{
		Client:    mgr.GetClient(),
		Live:      mgr.GetAPIReader(),
		Clock:     clock.RealClock{},
		Retries:   o.Retries,
		Namespace: o.Namespace,
	}})
}
