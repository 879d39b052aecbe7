// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// OwnerState is how far the hand-over between a workload controller's pods has come.
// +kubebuilder:validation:Enum=Attached;Releasing;Released;Restored;Orphaned
type OwnerState string

const (
	// OwnerAttached: the source pod belongs to its controller, as ever.
	OwnerAttached OwnerState = "Attached"
	// OwnerReleasing: the source is about to be released; the replacement that its
	// controller then makes is this Migration's target.
	OwnerReleasing OwnerState = "Releasing"
	// OwnerReleased: the source belongs to nobody, and its controller makes the
	// target in its place, or has.
	OwnerReleased OwnerState = "Released"
	// OwnerRestored: rolled back, the source belongs to its controller again.
	OwnerRestored OwnerState = "Restored"
	// OwnerOrphaned: rolled back, but the controller is gone: the source goes on
	// without one.
	OwnerOrphaned OwnerState = "Orphaned"
)

// OwnerStatus is the workload controller that the pod belongs to. The source is
// released from it, and the pod that it makes as a replacement becomes the target;
// a StatefulSet's is removed, and the pod that it makes anew becomes the target.
// The controller writes it.
type OwnerStatus struct {
	// apiVersion of the controller.
	APIVersion string `json:"apiVersion"`
	// kind of the controller: ReplicaSet, Job or StatefulSet.
	Kind string `json:"kind"`
	// name of the controller.
	Name string `json:"name"`
	// uid of the controller.
	UID types.UID `json:"uid"`
	// state is how far the hand-over has come.
	State OwnerState `json:"state"`
	// revision of the StatefulSet that the source was made of.
	// +optional
	Revision string `json:"revision,omitempty"`
	// releasedAt is when the source was seen to be released.
	// +optional
	ReleasedAt *metav1.MicroTime `json:"releasedAt,omitempty"`
}
