// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

// What the manager may do in a cluster. “make generate” turns the markers into
// config/rbac/manager/role.yaml, and copies that into the chart.
//
// +kubebuilder:rbac:groups=godwit.dev,resources=migrations,verbs=get;list;watch;create;patch;delete
// +kubebuilder:rbac:groups=godwit.dev,resources=migrationpolicies,verbs=get;list;watch
// +kubebuilder:rbac:groups="",resources=namespaces,verbs=get;list;watch
// +kubebuilder:rbac:groups=godwit.dev,resources=migrations/status,verbs=patch
// +kubebuilder:rbac:groups="",resources=pods,verbs=get;list;watch;create;patch;delete
// +kubebuilder:rbac:groups="",resources=nodes,verbs=get;list;watch
// +kubebuilder:rbac:groups="",resources=persistentvolumeclaims;persistentvolumes,verbs=get
//
// When a node goes that Karpenter has made.
// +kubebuilder:rbac:groups=karpenter.sh,resources=nodeclaims,verbs=get
//
// Pods of workload controllers: whether they can be released, and what selects
// them. A cluster may want a right on whoever is named as an owner.
// +kubebuilder:rbac:groups=apps,resources=replicasets;deployments;statefulsets,verbs=get
// +kubebuilder:rbac:groups=batch,resources=jobs,verbs=get
// +kubebuilder:rbac:groups=apps,resources=replicasets/finalizers;statefulsets/finalizers,verbs=update
// +kubebuilder:rbac:groups=batch,resources=jobs/finalizers,verbs=update
// +kubebuilder:rbac:groups="",resources=services,verbs=list
// +kubebuilder:rbac:groups=policy,resources=poddisruptionbudgets,verbs=list
// +kubebuilder:rbac:groups=networking.k8s.io,resources=networkpolicies,verbs=list
//
// +kubebuilder:rbac:groups="",resources=events,verbs=create;patch
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch
//
// The webhooks' certificate, which the manager makes: the Secret, and its
// authority in the configurations. The chart's names begin with the release's.
// +kubebuilder:rbac:groups="",resources=secrets,verbs=get;list;watch,namespace=godwit-system
// +kubebuilder:rbac:groups="",resources=secrets,resourceNames=godwit-webhooks,verbs=update,namespace=godwit-system
// +kubebuilder:rbac:groups=admissionregistration.k8s.io,resources=validatingwebhookconfigurations;mutatingwebhookconfigurations,verbs=get;list;watch
// +kubebuilder:rbac:groups=admissionregistration.k8s.io,resources=validatingwebhookconfigurations;mutatingwebhookconfigurations,resourceNames=godwit-webhooks,verbs=update
//
// Leader election, in the namespace that the manager runs in.
// +kubebuilder:rbac:groups=coordination.k8s.io,resources=leases,verbs=get;list;watch;create;update;patch;delete,namespace=godwit-system
