// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Package v1alpha1 contains the godwit.dev/v1alpha1 API: the Migration kind,
// its phases, condition types and reasons. It holds no logic.
//
// +kubebuilder:object:generate=true
// +groupName=godwit.dev
package v1alpha1
