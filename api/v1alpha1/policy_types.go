// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Evacuation says what an eviction of a pod leads to.
// +kubebuilder:validation:Enum=Required;BestEffort;None
type Evacuation string

const (
	// EvacuationRequired: the pod is moved. An eviction is denied until it is, and
	// also when it cannot be: whoever drains the node waits, with the reason.
	EvacuationRequired Evacuation = "Required"
	// EvacuationBestEffort: the pod is moved if it can be. When it cannot, or when
	// a few attempts have failed, the eviction takes its usual course.
	EvacuationBestEffort Evacuation = "BestEffort"
	// EvacuationNone: evictions take their usual course.
	EvacuationNone Evacuation = "None"
)

// MigrationCause is what a Migration was made for. Drains go before users, users
// before rebalancing, when migrations have to wait for each other.
// +kubebuilder:validation:Enum=Drain;User;Rebalance
type MigrationCause string

const (
	// CauseDrain: the pod's node is being emptied.
	CauseDrain MigrationCause = "Drain"
	// CauseUser: somebody wants the pod elsewhere.
	CauseUser MigrationCause = "User"
	// CauseRebalance: the pod would do better elsewhere.
	CauseRebalance MigrationCause = "Rebalance"
)

// MigrationPolicySpec says which pods are moved when their node is drained, and how.
type MigrationPolicySpec struct {
	// namespaceSelector selects namespaces by their labels. Unset or empty selects
	// all.
	// +optional
	NamespaceSelector *metav1.LabelSelector `json:"namespaceSelector,omitempty"`
	// podSelector selects pods by their labels. Unset or empty selects all.
	// +optional
	PodSelector *metav1.LabelSelector `json:"podSelector,omitempty"`
	// evacuation says what an eviction of the pods leads to: Required, BestEffort or
	// None.
	Evacuation Evacuation `json:"evacuation"`
	// priority among migrations that wait for the same cause; higher goes first.
	// +kubebuilder:validation:Minimum=-1000
	// +kubebuilder:validation:Maximum=1000
	// +optional
	Priority int32 `json:"priority,omitempty"`
	// preCopy of the migrations that a drain makes.
	// +kubebuilder:default={}
	// +optional
	PreCopy PreCopySpec `json:"preCopy,omitempty"`
	// connections of the migrations that a drain makes: what becomes of the pods' TCP
	// connections. With Keep a pod that cannot keep its address is not moved.
	// +kubebuilder:default=Close
	// +optional
	Connections ConnectionPolicy `json:"connections,omitempty"`
	// volumePolicy of the migrations that a drain makes.
	// +kubebuilder:default=Reject
	// +optional
	VolumePolicy VolumePolicy `json:"volumePolicy,omitempty"`
	// timeout of the migrations that a drain makes, from when they begin.
	// +kubebuilder:validation:XValidation:rule="duration(self) > duration('0s')",message="timeout must be positive"
	// +kubebuilder:default="15m"
	// +optional
	Timeout *metav1.Duration `json:"timeout,omitempty"`
}

// MigrationPolicy says which pods are moved when their node is drained, and how. Of
// several that select a pod the most specific one holds, as a whole: the one whose
// podSelector has more requirements (a label or an expression each), then the one
// whose namespaceSelector has, then the one whose name comes first. A pod's own
// labels and annotations (policy.godwit.dev/evacuation and others) go before all.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=migpol
// +kubebuilder:printcolumn:name="Evacuation",type=string,JSONPath=`.spec.evacuation`
// +kubebuilder:printcolumn:name="Priority",type=integer,JSONPath=`.spec.priority`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type MigrationPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec says which pods, and what becomes of them.
	Spec MigrationPolicySpec `json:"spec"`
}

// MigrationPolicyList is a list of MigrationPolicies.
//
// +kubebuilder:object:root=true
type MigrationPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []MigrationPolicy `json:"items"`
}

// EffectivePolicy is what the policies and the pod's own marks came to.
type EffectivePolicy struct {
	// evacuation that holds for the pod.
	Evacuation Evacuation `json:"evacuation"`
	// policy is the name of the MigrationPolicy that selected the pod; empty when none
	// did.
	// +optional
	Policy string `json:"policy,omitempty"`
	// overrides are the labels and annotations of the pod that went before it.
	// +listType=atomic
	// +optional
	Overrides []string `json:"overrides,omitempty"`
	// ignored are labels and annotations of the pod that could not be understood, and
	// why.
	// +listType=atomic
	// +optional
	Ignored []string `json:"ignored,omitempty"`
	// priority among migrations that wait for the same cause.
	// +optional
	Priority int32 `json:"priority,omitempty"`
}
