// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

// What the node agents may do in a cluster. “make generate” turns the markers
// into config/rbac/agent/role.yaml, and copies that into the chart.
//
// +kubebuilder:rbac:groups=godwit.dev,resources=migrations,verbs=get;list;watch
// +kubebuilder:rbac:groups=godwit.dev,resources=migrations/status,verbs=patch
// +kubebuilder:rbac:groups="",resources=pods,verbs=get;list;watch
// +kubebuilder:rbac:groups="",resources=nodes,verbs=get;patch
// +kubebuilder:rbac:groups="",resources=events,verbs=create;patch
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch
//
// An agent looks at its own DaemonSet to tell its removal from a rollout.
// +kubebuilder:rbac:groups=apps,resources=daemonsets,verbs=get;list;watch,namespace=godwit-system
