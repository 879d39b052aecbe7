// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// OnStallPolicy says what to do when pre-copy does not converge: the dirty set
// stopped shrinking, or rounds or time ran out.
// +kubebuilder:validation:Enum=Abort;StopAndCopy;Throttle
type OnStallPolicy string

const (
	// OnStallAbort gives up; the source pod goes on untouched.
	OnStallAbort OnStallPolicy = "Abort"
	// OnStallStopAndCopy switches over all the same and accepts the longer downtime.
	OnStallStopAndCopy OnStallPolicy = "StopAndCopy"
	// OnStallThrottle takes CPU time from the pod, step by step, so that it dirties
	// memory more slowly, and gives it back whatever becomes of the migration. When
	// that does not help either it gives up.
	OnStallThrottle OnStallPolicy = "Throttle"
)

// VolumePolicy says what becomes of a pod whose volumes only one node can have at a time.
// +kubebuilder:validation:Enum=Reject;Handoff
type VolumePolicy string

const (
	// VolumePolicyReject refuses to move it, before anything is touched.
	VolumePolicyReject VolumePolicy = "Reject"
	// VolumePolicyHandoff lets the volumes follow the pod: the source pod is removed
	// when its images are committed, and the pod made again under its own name. The
	// downtime is longer by what the cluster takes to detach and attach them.
	VolumePolicyHandoff VolumePolicy = "Handoff"
)

// LogPolicy says what becomes of the containers' logs.
// +kubebuilder:validation:Enum=Leave;CarryOver
type LogPolicy string

const (
	// LogLeave leaves them with the source pod: the new pod's logs begin with what its
	// containers write after the switchover, and the old ones go with the old pod.
	LogLeave LogPolicy = "Leave"
	// LogCarryOver copies them, so that the new pod's go on where the old pod's end.
	LogCarryOver LogPolicy = "CarryOver"
)

// ConnectionPolicy says what becomes of the pod's established TCP connections.
// +kubebuilder:validation:Enum=Close;Keep
type ConnectionPolicy string

const (
	// ConnectionsClose closes them on both sides: the pod's peers get a reset, and
	// connect again.
	ConnectionsClose ConnectionPolicy = "Close"
	// ConnectionsKeep keeps them, which needs the same address on the target.
	ConnectionsKeep ConnectionPolicy = "Keep"
)

// PreCopySpec tunes the iterative copying of memory while the pod runs.
type PreCopySpec struct {
	// maxRounds is the highest number of pre-copy rounds before the switchover.
	// Each round copies the memory that changed since the one before; the first
	// copies all of it. 0 means stop-and-copy: one full dump while the pod is
	// frozen. Long chains make the restore slower.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=16
	// +kubebuilder:default=8
	// +optional
	MaxRounds *int32 `json:"maxRounds,omitempty"`

	// targetDowntime is the downtime the migration aims at: pre-copy goes on
	// until the predicted downtime is at most this long.
	// +kubebuilder:validation:XValidation:rule="duration(self) > duration('0s')",message="targetDowntime must be positive"
	// +kubebuilder:default="2s"
	// +optional
	TargetDowntime *metav1.Duration `json:"targetDowntime,omitempty"`

	// roundTimeout bounds one pre-copy round. A round that takes longer fails
	// the migration; the source pod goes on.
	// +kubebuilder:validation:XValidation:rule="duration(self) > duration('0s')",message="roundTimeout must be positive"
	// +kubebuilder:default="5m"
	// +optional
	RoundTimeout *metav1.Duration `json:"roundTimeout,omitempty"`

	// onStall says what to do when the dirty memory does not shrink far enough
	// to reach targetDowntime: Abort leaves the source running, StopAndCopy
	// switches over with a longer downtime, Throttle slows the pod down until it can
	// be reached, for some rounds more than maxRounds if need be, and else leaves
	// the source running.
	// +kubebuilder:default=StopAndCopy
	// +optional
	OnStall OnStallPolicy `json:"onStall,omitempty"`
}

// MigrationSpec describes one attempt to move one pod. It cannot be changed.
type MigrationSpec struct {
	// podName is the name of the running pod to move, in the Migration's namespace.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`
	PodName string `json:"podName"`

	// targetNode is the node to move the pod to. When empty the scheduler
	// chooses among the nodes that are able to take the pod; never the source.
	// +kubebuilder:validation:MaxLength=253
	// +optional
	TargetNode string `json:"targetNode,omitempty"`

	// targetPodName is the name of the pod on the target node. When empty the
	// source's name with a short suffix is used. It cannot be podName, since
	// both pods exist for a while. A pod that keeps its name (status.handoff) takes
	// none.
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*)?$`
	// +optional
	TargetPodName string `json:"targetPodName,omitempty"`

	// preCopy tunes the copying of memory while the pod runs.
	// +kubebuilder:default={}
	// +optional
	PreCopy PreCopySpec `json:"preCopy,omitempty"`

	// volumePolicy says what becomes of a pod with volumes that only one node can have
	// at a time: claims that are ReadWriteOnce or ReadWriteOncePod. Reject refuses to
	// move it and names the volume. Handoff detaches them from the source's node and
	// attaches them to the target's while the pod stands still; that goes for pods of
	// StatefulSets and for those of no controller, which then keep their names. Claims
	// that are bound to a directory of a node stay there, under either policy. Claims
	// that several nodes can mount go on, emptyDirs travel, and what kubelet fills is the
	// new pod's own.
	// +kubebuilder:default=Reject
	// +optional
	VolumePolicy VolumePolicy `json:"volumePolicy,omitempty"`

	// logPolicy says what becomes of the containers' logs (kubectl logs). Leave: the new
	// pod's begin at the switchover. CarryOver: they are copied like volumes, those that
	// kubelet has rotated away included, and the new pod's go on where they end.
	// +kubebuilder:default=Leave
	// +optional
	LogPolicy LogPolicy `json:"logPolicy,omitempty"`

	// connections says what becomes of the pod's established TCP connections. Close: the
	// pod finds them closed, and its peers get a reset. Keep: they go on, as if the
	// network had been away for a while. That needs the pod's address on the target. So
	// it goes for pods of StatefulSets and for those of no controller, which then keep
	// their names, and whose network plugin gives them the address that an annotation of
	// the pod asks for (see status.connections). A connection that nobody had accepted
	// yet is closed all the same.
	// +kubebuilder:default=Close
	// +optional
	Connections ConnectionPolicy `json:"connections,omitempty"`

	// timeout bounds the migration from when it begins up to the commit. When it
	// passes, the migration is rolled back and the source pod goes on. One that waits
	// for others to end fails after an hour, or after timeout if that is longer.
	// +kubebuilder:validation:XValidation:rule="duration(self) > duration('0s')",message="timeout must be positive"
	// +kubebuilder:default="15m"
	// +optional
	Timeout *metav1.Duration `json:"timeout,omitempty"`

	// switchoverTimeout bounds the time the source pod may be frozen before the
	// target has committed. When it passes, the switchover is aborted and the
	// source pod goes on.
	// +kubebuilder:validation:XValidation:rule="duration(self) > duration('0s')",message="switchoverTimeout must be positive"
	// +kubebuilder:default="1m"
	// +optional
	SwitchoverTimeout *metav1.Duration `json:"switchoverTimeout,omitempty"`

	// dryRun stops after the preflight: the status says whether the pod could
	// move, and nothing is touched.
	// +optional
	DryRun bool `json:"dryRun,omitempty"`

	// cause is what the Migration was made for: Drain, User or Rebalance. It and
	// priority say who goes first when migrations have to wait for each other.
	// +kubebuilder:default=User
	// +optional
	Cause MigrationCause `json:"cause,omitempty"`

	// priority among migrations that wait for the same cause; higher goes first.
	// +kubebuilder:validation:Minimum=-1000
	// +kubebuilder:validation:Maximum=1000
	// +optional
	Priority int32 `json:"priority,omitempty"`

	// ttlSecondsAfterFinished deletes the Migration this long after it has
	// finished. Unset keeps it.
	// +kubebuilder:validation:Minimum=0
	// +optional
	TTLSecondsAfterFinished *int32 `json:"ttlSecondsAfterFinished,omitempty"`
}

// Migration is one attempt to move one running pod to another node without
// restarting its processes.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=mig,categories=all
// +kubebuilder:selectablefield:JSONPath=.spec.podName
// +kubebuilder:printcolumn:name="Pod",type=string,JSONPath=`.spec.podName`
// +kubebuilder:printcolumn:name="From",type=string,JSONPath=`.status.source.nodeName`
// +kubebuilder:printcolumn:name="To",type=string,JSONPath=`.status.target.nodeName`
// +kubebuilder:printcolumn:name="Phase",type=string,JSONPath=`.status.phase`
// +kubebuilder:printcolumn:name="Round",type=integer,JSONPath=`.status.source.round`
// +kubebuilder:printcolumn:name="Dirty",type=string,JSONPath=`.status.source.dirty`
// +kubebuilder:printcolumn:name="Downtime",type=string,JSONPath=`.status.downtime.total`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Message",type=string,priority=1,JSONPath=`.status.message`
// +kubebuilder:validation:XValidation:rule="!has(self.spec.targetPodName) || self.spec.targetPodName != self.spec.podName",message="targetPodName must differ from podName"
// +kubebuilder:validation:XValidation:rule="!has(oldSelf.status) || !has(oldSelf.status.handover) || (has(self.status) && has(self.status.handover))",message="the handover register cannot be cleared"
type Migration struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec says what to move and how. Immutable.
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="spec is immutable: delete this Migration and create another"
	Spec MigrationSpec `json:"spec"`

	// status tells how the migration goes.
	// +optional
	Status MigrationStatus `json:"status,omitempty,omitzero"`
}

// MigrationList is a list of Migrations.
//
// +kubebuilder:object:root=true
type MigrationList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Migration `json:"items"`
}
