// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

// What the manager may do in a cluster. “make generate” turns the markers into
// config/rbac/manager/role.yaml, and copies that into the chart.
//
// +kubebuilder:rbac:groups=godwit.dev,resources=migrations,verbs=get;list;watch;patch;delete
// +kubebuilder:rbac:groups=godwit.dev,resources=migrations/status,verbs=patch
// +kubebuilder:rbac:groups="",resources=pods,verbs=get;list;watch;create;delete
// +kubebuilder:rbac:groups="",resources=nodes,verbs=get;list;watch
// +kubebuilder:rbac:groups="",resources=persistentvolumeclaims,verbs=get
// +kubebuilder:rbac:groups="",resources=events,verbs=create;patch
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch
//
// Leader election, in the namespace that the manager runs in.
// +kubebuilder:rbac:groups=coordination.k8s.io,resources=leases,verbs=get;list;watch;create;update;patch;delete,namespace=godwit-system
