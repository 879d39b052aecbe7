// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// MigrationPhase is where a migration stands. Only the controller writes it.
// +kubebuilder:validation:Enum=Pending;Preparing;PreCopying;SwitchingOver;Replacing;Completing;RollingBack;Succeeded;Failed;Cancelled
type MigrationPhase string

const (
	// PhasePending: accepted, source pod not looked at yet.
	PhasePending MigrationPhase = "Pending"
	// PhasePreparing: the source agent runs the preflight.
	PhasePreparing MigrationPhase = "Preparing"
	// PhasePreCopying: memory is copied in rounds while the pod runs, and the
	// target pod is brought up to the point where only the restore is missing.
	PhasePreCopying MigrationPhase = "PreCopying"
	// PhaseSwitchingOver: armed. The source agent freezes the pod and writes the
	// last difference, the target agent commits and restores.
	PhaseSwitchingOver MigrationPhase = "SwitchingOver"
	// PhaseReplacing: of a pod that keeps its name, committed. The source pod is
	// removed, its controller (the manager, for one that has none) makes it again, and
	// that pod is restored. Nothing is taken back any more.
	PhaseReplacing MigrationPhase = "Replacing"
	// PhaseCompleting: the target is confirmed; the source pod is removed.
	PhaseCompleting MigrationPhase = "Completing"
	// PhaseRollingBack: the source goes on, what was made for the target is removed.
	PhaseRollingBack MigrationPhase = "RollingBack"
	// PhaseSucceeded: the pod runs on the target node (or the dry run passed).
	PhaseSucceeded MigrationPhase = "Succeeded"
	// PhaseFailed: the migration did not happen; the source pod goes on.
	PhaseFailed MigrationPhase = "Failed"
	// PhaseCancelled: the migration was cancelled; the source pod goes on.
	PhaseCancelled MigrationPhase = "Cancelled"
)

// PhaseTransitionTimestamp records when a phase was entered.
type PhaseTransitionTimestamp struct {
	// phase that was entered.
	Phase MigrationPhase `json:"phase"`
	// time at which it was entered.
	Time metav1.MicroTime `json:"time"`
}

// PodRef says where one side's pod is. The controller writes it.
type PodRef struct {
	// nodeName is the node of the pod.
	// +optional
	NodeName string `json:"nodeName,omitempty"`
	// podName is the name of the pod.
	// +optional
	PodName string `json:"podName,omitempty"`
	// podUID is the UID of the pod; all authority is bound to it.
	// +optional
	PodUID types.UID `json:"podUID,omitempty"`
}

// Failure is a typed reason and a sentence that says what to do about it.
type Failure struct {
	// reason is one of the Reason constants.
	Reason string `json:"reason"`
	// message is a sentence for a person: what happened and what to do.
	// +optional
	Message string `json:"message,omitempty"`
	// container concerned, when it is one.
	// +optional
	Container string `json:"container,omitempty"`
}

// HandoverState is the value of the handover register.
// +kubebuilder:validation:Enum=Committed;Aborted
type HandoverState string

const (
	// HandoverCommitted: the source must not run; the target restores. Written
	// by the target agent alone.
	HandoverCommitted HandoverState = "Committed"
	// HandoverAborted: the target must not run; the source goes on. Final.
	HandoverAborted HandoverState = "Aborted"
)

// Handoff is how a pod's name passes from the source to the target.
// +kubebuilder:validation:Enum=SameName
type Handoff string

const (
	// HandoffSameName: both cannot be there at a time, since the name is the pod's
	// identity (a StatefulSet's pod), or since only one node can have its volumes
	// (volumePolicy Handoff). So the target is made under the source's name when the
	// source is gone. Until then a placeholder takes its place on the target's node.
	HandoffSameName Handoff = "SameName"
)

// ConnectionsStatus says by what the target gets the addresses that the pod's
// connections need.
type ConnectionsStatus struct {
	// addresses of the source pod, all of which the target is to have.
	// +listType=atomic
	Addresses []string `json:"addresses"`
	// annotation of the source pod by which its network plugin gives it the addresses;
	// the target gets it as well.
	Annotation string `json:"annotation"`
	// value of the annotation.
	Value string `json:"value"`
}

// Handover is the register that decides who owns the running pod. It is empty
// until the switchover is decided, is written with a resourceVersion
// precondition, and so has one winner: empty → Committed (target agent) or
// empty → Aborted (anyone). The target agent that committed may take it back
// (Committed → Aborted) after it has proved that nothing of the restored process
// tree runs; the controller may for two reasons only: the target's node is known
// to be gone, or a person decided so; and, of a pod that keeps its name, as long as
// its source is not given up, that nobody would make it again. See docs/protocol.md.
//
// +kubebuilder:validation:XValidation:rule="oldSelf.state != 'Aborted' || self == oldSelf",message="an aborted handover is final"
// +kubebuilder:validation:XValidation:rule="oldSelf.state != 'Committed' || self.state == 'Aborted' || self == oldSelf",message="a committed handover can only be taken back"
// +kubebuilder:validation:XValidation:rule="oldSelf.state != 'Committed' || self.state != 'Aborted' || self.by == oldSelf.by || (self.by == 'controller' && has(self.reason) && self.reason in ['TargetNodeLost', 'ResolvedToSource', 'OwnerChanged', 'RolloutInProgress', 'TargetPodGone'])",message="a commit is taken back by the agent that made it, or by the controller because of TargetNodeLost, ResolvedToSource, OwnerChanged, RolloutInProgress or TargetPodGone"
// +kubebuilder:validation:XValidation:rule="self.state != 'Committed' || (has(self.manifestDigest) && size(self.manifestDigest) > 0)",message="a commit names the manifest it verified"
type Handover struct {
	// state is the register's value.
	State HandoverState `json:"state"`
	// manifestDigest is the SHA-256 of the manifest that the target verified
	// and restores; set on a commit.
	// +optional
	ManifestDigest string `json:"manifestDigest,omitempty"`
	// by names the writer: "controller", "source/<node>" or "target/<node>".
	By string `json:"by"`
	// reason is a typed reason for an abort.
	// +optional
	Reason string `json:"reason,omitempty"`
	// message says in a sentence why.
	// +optional
	Message string `json:"message,omitempty"`
	// time of the write by the writer's clock.
	Time metav1.MicroTime `json:"time"`
}

// ResolveRequest is a value of AnnotationResolve.
type ResolveRequest string

const (
	// ResolveSource: the source goes on, the target is given up. Refused unless
	// nothing can run on the target: its node is known to be gone, or its pod
	// object is and its agent has seen that nothing of it is left.
	ResolveSource ResolveRequest = "Source"
	// ResolveTarget: the target owns the pod, the source is removed. Refused
	// unless kubelet has seen the target run.
	ResolveTarget ResolveRequest = "Target"
	// ResolveForceSource is ResolveSource without a question. If the target's
	// node is alive after all, the pod runs twice until its agent hears of it.
	ResolveForceSource ResolveRequest = "ForceSource"
	// ResolveForceTarget is ResolveTarget without a question. If the target does
	// not run, nothing is left of the pod: its images are removed as well.
	ResolveForceTarget ResolveRequest = "ForceTarget"
)

// ResolutionOutcome is the answer to a person's choice.
// +kubebuilder:validation:Enum=Accepted;Refused
type ResolutionOutcome string

const (
	// ResolutionAccepted: it is being done.
	ResolutionAccepted ResolutionOutcome = "Accepted"
	// ResolutionRefused: nothing was done, the message says what is missing.
	ResolutionRefused ResolutionOutcome = "Refused"
)

// Resolution is the answer to the last value of the annotation
// godwit.dev/resolve. Each is answered once, and never applied to what happens
// later. Who wrote the annotation is in the API server's audit log.
type Resolution struct {
	// request is the annotation's value.
	// +kubebuilder:validation:MaxLength=64
	Request ResolveRequest `json:"request"`
	// forced: the request was to be carried out whatever is known.
	// +optional
	Forced bool `json:"forced,omitempty"`
	// outcome is what became of it.
	Outcome ResolutionOutcome `json:"outcome"`
	// message says why it was refused and what is missing, or what is done.
	// +optional
	Message string `json:"message,omitempty"`
	// known is what was known of the target when it was answered.
	// +optional
	Known string `json:"known,omitempty"`
	// fieldManager is the program that wrote the annotation, as it called itself.
	// +optional
	FieldManager string `json:"fieldManager,omitempty"`
	// time of the answer.
	Time metav1.MicroTime `json:"time"`
	// closed: the annotation has been removed since, so that the same value is a
	// new request.
	// +optional
	Closed bool `json:"closed,omitempty"`
}

// DowntimeStatus is the time in which no process of the pod ran, and its parts.
type DowntimeStatus struct {
	// total is freezeAndDump + handover + replace + restore.
	Total metav1.Duration `json:"total"`
	// freezeAndDump is the time from the freeze to the published manifest,
	// measured on the source node.
	FreezeAndDump metav1.Duration `json:"freezeAndDump"`
	// handover is the time from the published manifest to the start of the
	// restore; of a pod that keeps its name (status.handoff) to the commit only. It
	// spans two nodes' clocks.
	Handover metav1.Duration `json:"handover"`
	// replace is the time from the commit to the start of the restore that succeeded,
	// measured on the target node; only of a pod that keeps its name. In it the source
	// pod was removed, its volumes were detached and attached, and the pod was made
	// again and brought up to its restore. Restores that failed before count as well.
	// +optional
	Replace *metav1.Duration `json:"replace,omitempty"`
	// restore is the time from the start of the restore to the first
	// instruction of the restored processes, measured on the target node.
	Restore metav1.Duration `json:"restore"`
	// predicted is what total was predicted to be right before the freeze.
	// +optional
	Predicted *metav1.Duration `json:"predicted,omitempty"`
}

// MigrationStatus tells the whole story of a migration.
// The rule that keeps its handover register from being cleared is on Migration,
// because a rule here would not run when the whole status is removed.
//
// +kubebuilder:validation:XValidation:rule="!has(oldSelf.handover) || oldSelf.handover.state != 'Committed' || !has(self.handover) || self.handover.state != 'Aborted' || !has(oldSelf.phase) || !(oldSelf.phase in ['Replacing', 'Completing', 'Succeeded'])",message="a commit cannot be taken back once the target is confirmed, or the source is given up for it"
// +kubebuilder:validation:XValidation:rule="!has(oldSelf.handover) || oldSelf.handover.state != 'Committed' || !has(self.handover) || !has(self.handover.reason) || self.handover.reason != 'TargetNodeLost' || !has(oldSelf.target) || !has(oldSelf.target.restoredAt) && !has(oldSelf.target.startedAt) && (!has(oldSelf.target.state) || oldSelf.target.state != 'Restored')",message="the target has run: only a person can decide that the source goes on"
// +kubebuilder:validation:XValidation:rule="!has(oldSelf.handover) || oldSelf.handover.state != 'Committed' || !has(self.handover) || !has(self.handover.reason) || self.handover.reason != 'ResolvedToSource' || has(self.resolution) && self.resolution.outcome == 'Accepted' && self.resolution.request in ['Source', 'ForceSource']",message="ResolvedToSource needs the accepted request in status.resolution"
// +kubebuilder:validation:XValidation:rule="!has(oldSelf.handover) || oldSelf.handover.state != 'Committed' || !has(self.handover) || self.handover.state != 'Aborted' || self.handover.by != 'controller' || !has(self.handover.reason) || !(self.handover.reason in ['OwnerChanged', 'RolloutInProgress', 'TargetPodGone']) || has(oldSelf.handoff) && oldSelf.handoff == 'SameName'",message="only the commit of a pod that keeps its name is taken back because nobody would make it again"
type MigrationStatus struct {
	// observedGeneration is the generation of the spec this status is about.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// phase is where the migration stands.
	// +optional
	Phase MigrationPhase `json:"phase,omitempty"`
	// message says in one sentence what is going on or how it ended.
	// +optional
	Message string `json:"message,omitempty"`
	// failure says why the migration is rolled back or failed.
	// +optional
	Failure *Failure `json:"failure,omitempty"`
	// phaseTransitionTimestamps records when each phase was entered.
	// +listType=map
	// +listMapKey=phase
	// +optional
	PhaseTransitionTimestamps []PhaseTransitionTimestamp `json:"phaseTransitionTimestamps,omitempty"`
	// conditions: Eligible, TargetReady, Converged, HandedOver, Complete; and
	// TargetLost, which is there only when the target was lost after the commit,
	// and is True as long as nobody knows which side can go on; Queued, only of one that
	// had to wait; and ConnectionsKept, only with spec.connections: Keep.
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// source is the pod that moves and what its node's agent reports.
	// +optional
	Source *SourceStatus `json:"source,omitempty"`
	// target is the pod it becomes and what its node's agent reports.
	// +optional
	Target *TargetStatus `json:"target,omitempty"`
	// handoff is SameName for a pod that keeps its name; absent when the target has a
	// name of its own. Written before anything is touched.
	// +optional
	Handoff Handoff `json:"handoff,omitempty"`
	// placeholder is the pod that keeps the target's place while the source still
	// has the name; only with handoff SameName. It is never restored into.
	// +optional
	Placeholder *PodRef `json:"placeholder,omitempty"`
	// connections is there when the pod's TCP connections are to be kept
	// (spec.connections: Keep). Written before anything is touched.
	// +optional
	Connections *ConnectionsStatus `json:"connections,omitempty"`
	// owner is the workload controller that the pod belongs to; absent when it has
	// none.
	// +optional
	Owner *OwnerStatus `json:"owner,omitempty"`
	// handover is the register that decides which side owns the running pod.
	// +optional
	Handover *Handover `json:"handover,omitempty"`
	// resolution is the answer to a person's choice of a side, made with the
	// annotation godwit.dev/resolve (kubectl migrate resolve).
	// +optional
	Resolution *Resolution `json:"resolution,omitempty"`
	// downtime is the measured downtime; set when the target is confirmed.
	// +optional
	Downtime *DowntimeStatus `json:"downtime,omitempty"`
	// policy is what the MigrationPolicies and the pod's own marks said about drains
	// when the migration was accepted.
	// +optional
	Policy *EffectivePolicy `json:"policy,omitempty"`
	// bytesTransferred is what went through the volume: all rounds, the final
	// dump and the file differences.
	// +optional
	BytesTransferred int64 `json:"bytesTransferred,omitempty"`
	// completionTime is when the migration reached a final phase.
	// +optional
	CompletionTime *metav1.Time `json:"completionTime,omitempty"`
}
