// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// TargetState is how far the target agent has come.
// +kubebuilder:validation:Enum=Gated;Released;Parked;Restoring;Restored;Failed;Reverted;Cleaned
type TargetState string

const (
	// TargetGated: the pod is on the node and held back by its gate.
	TargetGated TargetState = "Gated"
	// TargetReleased: the gate was opened; kubelet is about to create the containers.
	TargetReleased TargetState = "Released"
	// TargetParked: every container's create is parked in the runtime wrapper;
	// only the images are missing.
	TargetParked TargetState = "Parked"
	// TargetRestoring: committed, the restore runs.
	TargetRestoring TargetState = "Restoring"
	// TargetRestored: every container's processes run on this node.
	TargetRestored TargetState = "Restored"
	// TargetFailed: the target cannot go on, see failure. Before the commit this
	// asks the controller for a rollback.
	TargetFailed TargetState = "Failed"
	// TargetReverted: after a failed restore the agent has proved that nothing
	// of the restored tree runs, and has taken the commit back.
	TargetReverted TargetState = "Reverted"
	// TargetCleaned: every trace of the migration on the node is removed.
	TargetCleaned TargetState = "Cleaned"
)

// TargetStatus is the target pod and the report of its node's agent.
type TargetStatus struct {
	// The pod; written by the controller.
	PodRef `json:",inline"`
	// nodeUID is the UID of the Node object at the time the pod was placed;
	// another Node of the same name is not the one that committed. Written by
	// the controller, and never after the commit.
	// +optional
	NodeUID types.UID `json:"nodeUID,omitempty"`
	// startedAt is when the controller found, after the commit, that kubelet had
	// seen every container run.
	// +optional
	StartedAt *metav1.MicroTime `json:"startedAt,omitempty"`
	// The report; written by the target agent.
	TargetReport `json:",inline"`
}

// TargetReport holds the facts the target agent reports. It applies all of
// them each time with its own field manager.
type TargetReport struct {
	// state is how far the target has come.
	// +optional
	State TargetState `json:"state,omitempty"`
	// verifiedRounds is how many finished rounds were read through and checked.
	// +optional
	VerifiedRounds int32 `json:"verifiedRounds,omitempty"`
	// containers holds the restore of each container.
	// +listType=map
	// +listMapKey=name
	// +optional
	Containers []TargetContainerStatus `json:"containers,omitempty"`
	// preparedAt is when the parked creates had done what can be done of a restore before
	// the images are complete, or had found that they cannot: the source waits for it,
	// though not for long, before it is frozen.
	// +optional
	PreparedAt *metav1.MicroTime `json:"preparedAt,omitempty"`
	// restoreStartedAt is when the parked creates were allowed to restore.
	// +optional
	RestoreStartedAt *metav1.MicroTime `json:"restoreStartedAt,omitempty"`
	// restoredAt is when the last container's processes ran.
	// +optional
	RestoredAt *metav1.MicroTime `json:"restoredAt,omitempty"`
	// bootID is the node's boot (/proc/sys/kernel/random/boot_id) in which the
	// creates were parked. Under another one the node knows nothing any more of
	// what it did after the commit.
	// +kubebuilder:validation:MaxLength=64
	// +optional
	BootID string `json:"bootID,omitempty"`
	// treeGoneAt is when the agent had seen that nothing is left on its node of
	// a pod that ran there, or may have, and was lost before the source was removed:
	// its object was deleted, its create failed after all, or the node restarted.
	// A person decides then which side goes on.
	// +optional
	TreeGoneAt *metav1.MicroTime `json:"treeGoneAt,omitempty"`
	// failedRestores is how many restores of a pod that keeps its name have failed;
	// each was seen to have left nothing, and was tried again.
	// +optional
	FailedRestores int32 `json:"failedRestores,omitempty"`
	// connections says what becomes of TCP connections that are to be kept.
	// +optional
	Connections *ConnectionsReport `json:"connections,omitempty"`
	// failure is set when the target agent gives up, or says why the last of
	// failedRestores failed.
	// +optional
	Failure *Failure `json:"failure,omitempty"`
}

// ConnectionsState is what has become of TCP connections that were to be kept.
// +kubebuilder:validation:Enum=Held;Kept;Closed
type ConnectionsState string

const (
	// ConnectionsHeld: the target's node lets no TCP of the pod's addresses pass, until
	// the pod runs there.
	ConnectionsHeld ConnectionsState = "Held"
	// ConnectionsKept: they were restored, and go on.
	ConnectionsKept ConnectionsState = "Kept"
	// ConnectionsClosed: they could not be kept; the pod finds them closed.
	ConnectionsClosed ConnectionsState = "Closed"
)

// ConnectionsReport is what the target's agent knows of TCP connections that are to be
// kept.
type ConnectionsReport struct {
	// state of the connections.
	State ConnectionsState `json:"state"`
	// reason why they were closed: AddressChanged or ConnectionsNotRestored.
	// +optional
	Reason string `json:"reason,omitempty"`
	// message says the same in a sentence.
	// +optional
	Message string `json:"message,omitempty"`
}

// TargetContainerStatus is the restore of one container.
type TargetContainerStatus struct {
	// name of the container.
	Name string `json:"name"`
	// containerID is the runtime's id on the target, without scheme.
	// +optional
	ContainerID string `json:"containerID,omitempty"`
	// parkedAt is when its create was parked.
	// +optional
	ParkedAt *metav1.MicroTime `json:"parkedAt,omitempty"`
	// restore holds the measurements of the restore.
	// +optional
	Restore *RestoreStatus `json:"restore,omitempty"`
}

// RestoreStatus holds the measurements of one restore.
type RestoreStatus struct {
	// startTime of the restore.
	// +optional
	StartTime metav1.MicroTime `json:"startTime,omitzero"`
	// duration until the processes ran.
	// +optional
	Duration metav1.Duration `json:"duration,omitempty"`
	// pagesRestored is how many pages were put back.
	// +optional
	PagesRestored int64 `json:"pagesRestored,omitempty"`
}
