// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// SourceState is how far the source agent has come.
// +kubebuilder:validation:Enum=Checked;Refused;PreCopying;Converged;Stalled;Ready;Frozen;Dumped;Resumed;Killed;Cleaned
type SourceState string

const (
	// SourceChecked: the preflight passed.
	SourceChecked SourceState = "Checked"
	// SourceRefused: the preflight found at least one refusal.
	SourceRefused SourceState = "Refused"
	// SourcePreCopying: rounds are running.
	SourcePreCopying SourceState = "PreCopying"
	// SourceConverged: the next dump may be the final one; waiting to be armed.
	SourceConverged SourceState = "Converged"
	// SourceStalled: pre-copy does not converge and the policy is Abort.
	SourceStalled SourceState = "Stalled"
	// SourceReady: armed, and the final dump stands ready for the freeze; one more
	// round may be made before.
	SourceReady SourceState = "Ready"
	// SourceFrozen: the pod's tasks are frozen, the final dump is being written.
	SourceFrozen SourceState = "Frozen"
	// SourceDumped: the image set is complete and durable, its digest published;
	// the tasks stay frozen.
	SourceDumped SourceState = "Dumped"
	// SourceResumed: nothing of the pod is frozen and nothing will be; it runs
	// as before the migration.
	SourceResumed SourceState = "Resumed"
	// SourceKilled: the frozen tasks have been killed after the target was confirmed.
	SourceKilled SourceState = "Killed"
	// SourceCleaned: images and every trace on the node are removed.
	SourceCleaned SourceState = "Cleaned"
)

// SourceStatus is the source pod and the report of its node's agent.
type SourceStatus struct {
	// The pod; written by the controller.
	PodRef `json:",inline"`
	// The report; written by the source agent.
	SourceReport `json:",inline"`
}

// SourceReport holds the facts the source agent reports. It applies all of
// them each time with its own field manager.
type SourceReport struct {
	// state is how far the source has come.
	// +optional
	State SourceState `json:"state,omitempty"`
	// refusals of the preflight; empty when it passed.
	// +listType=atomic
	// +optional
	Refusals []Failure `json:"refusals,omitempty"`
	// dirtyTracking says whether the node's kernel tracks dirty pages. Without
	// it the migration is a single dump.
	// +optional
	DirtyTracking *bool `json:"dirtyTracking,omitempty"`
	// residentBytes is the pod's resident memory at the preflight.
	// +optional
	ResidentBytes int64 `json:"residentBytes,omitempty"`
	// probeBudget is how long kubelet's probes put up with a frozen pod; absent
	// when no liveness or startup probe looks at it.
	// +optional
	ProbeBudget *ProbeBudget `json:"probeBudget,omitempty"`
	// round is the number of finished pre-copy rounds.
	// +optional
	Round *int32 `json:"round,omitempty"`
	// dirty is the memory dirtied since the last round, for people ("8Mi").
	// +optional
	Dirty string `json:"dirty,omitempty"`
	// convergence is the last decision of the pre-copy engine.
	// +optional
	Convergence *ConvergenceStatus `json:"convergence,omitempty"`
	// containers holds the rounds and the final dump of each container.
	// +listType=map
	// +listMapKey=name
	// +optional
	Containers []SourceContainerStatus `json:"containers,omitempty"`
	// volumes holds what was copied of the pod's emptyDirs: in the pre-copy rounds, what
	// had changed, and at last, while the pod was frozen. A round in which nothing had
	// changed has no entry.
	// +listType=map
	// +listMapKey=index
	// +optional
	Volumes []VolumesStatus `json:"volumes,omitempty"`
	// frozenAt is when the freeze began.
	// +optional
	FrozenAt *metav1.MicroTime `json:"frozenAt,omitempty"`
	// dumpedAt is when the image set was complete, durable and published.
	// +optional
	DumpedAt *metav1.MicroTime `json:"dumpedAt,omitempty"`
	// manifestDigest is the SHA-256 (hex) of the image set's manifest. It
	// travels through the API, so that the volume alone can never make a node
	// restore anything.
	// +optional
	ManifestDigest string `json:"manifestDigest,omitempty"`
	// resumedAt is when the tasks were let go on after an abort.
	// +optional
	ResumedAt *metav1.MicroTime `json:"resumedAt,omitempty"`
	// killedAt is when the frozen tasks were killed after the target was confirmed.
	// +optional
	KilledAt *metav1.MicroTime `json:"killedAt,omitempty"`
	// failure is set when the source agent gives up.
	// +optional
	Failure *Failure `json:"failure,omitempty"`
}

// ProbeBudget is the shortest patience that a probe of the pod has with a frozen
// container, and what a switchover may take of it.
type ProbeBudget struct {
	// container whose probe it is.
	Container string `json:"container"`
	// probe is "liveness" or "startup".
	Probe string `json:"probe"`
	// patience is how long after the freeze kubelet restarts the container at
	// the earliest: (failureThreshold - 1) × periodSeconds.
	Patience metav1.Duration `json:"patience"`
	// switchover is how much of it the freeze may last, the rest being kept for
	// letting the source go on: a switchover that is not committed by then is
	// aborted, and a restore that has not ended by then is taken back.
	Switchover metav1.Duration `json:"switchover"`
}

// ConvergenceVerdict is what the pre-copy engine wants next.
// +kubebuilder:validation:Enum=Continue;Switch;Stalled;Throttle
type ConvergenceVerdict string

const (
	// VerdictContinue: one more round is worth it.
	VerdictContinue ConvergenceVerdict = "Continue"
	// VerdictSwitch: so little is dirty that the target downtime can be met.
	VerdictSwitch ConvergenceVerdict = "Switch"
	// VerdictStalled: more rounds would not help.
	VerdictStalled ConvergenceVerdict = "Stalled"
	// VerdictThrottle: more rounds would help if the pod dirtied memory more slowly.
	VerdictThrottle ConvergenceVerdict = "Throttle"
)

// ConvergenceStatus is one decision of the pre-copy engine.
type ConvergenceStatus struct {
	// verdict is what to do next.
	Verdict ConvergenceVerdict `json:"verdict"`
	// reason is the rule that decided.
	Reason string `json:"reason"`
	// message explains the decision with its numbers.
	// +optional
	Message string `json:"message,omitempty"`
	// predictedDowntime if the switchover began now.
	// +optional
	PredictedDowntime *metav1.Duration `json:"predictedDowntime,omitempty"`
	// unreadBytes of rounds that the target had yet to read at the freeze.
	// +optional
	UnreadBytes int64 `json:"unreadBytes,omitempty"`
	// bandwidthBytesPerSecond measured for writing images.
	// +optional
	BandwidthBytesPerSecond int64 `json:"bandwidthBytesPerSecond,omitempty"`
	// dirtyBytesPerSecond is how fast the pod dirtied memory during the last round,
	// pages that it dirtied again counted once.
	// +optional
	DirtyBytesPerSecond int64 `json:"dirtyBytesPerSecond,omitempty"`
	// cpuPercent of the CPU time it used before is left to the pod, to slow it down,
	// from this decision until the freeze. Absent when all is.
	// +optional
	CPUPercent *int32 `json:"cpuPercent,omitempty"`
}

// SourceContainerStatus is the copying of one container.
type SourceContainerStatus struct {
	// name of the container.
	Name string `json:"name"`
	// containerID is the runtime's id, without scheme.
	// +optional
	ContainerID string `json:"containerID,omitempty"`
	// rounds of pre-copy, oldest first.
	// +listType=map
	// +listMapKey=index
	// +optional
	Rounds []RoundStatus `json:"rounds,omitempty"`
	// finalDump is the dump made while frozen.
	// +optional
	FinalDump *DumpStatus `json:"finalDump,omitempty"`
}

// DumpStatus holds the measurements of one dump.
type DumpStatus struct {
	// startTime of the dump.
	// +optional
	StartTime metav1.MicroTime `json:"startTime,omitzero"`
	// duration of the whole dump.
	// +optional
	Duration metav1.Duration `json:"duration,omitempty"`
	// frozen is how long CRIU held the tasks stopped for it.
	// +optional
	Frozen metav1.Duration `json:"frozen,omitempty"`
	// pagesScanned is how many pages CRIU looked at.
	// +optional
	PagesScanned int64 `json:"pagesScanned,omitempty"`
	// pagesSkipped is how many were unchanged since the parent and left out.
	// +optional
	PagesSkipped int64 `json:"pagesSkipped,omitempty"`
	// pagesWritten is how many were written.
	// +optional
	PagesWritten int64 `json:"pagesWritten,omitempty"`
	// memoryBytes is the memory written.
	// +optional
	MemoryBytes int64 `json:"memoryBytes,omitempty"`
	// bytes is everything written, images and file differences.
	// +optional
	Bytes int64 `json:"bytes,omitempty"`
	// files is what was copied, beside the dump, of the container's root file system and
	// of /dev/shm. Absent when nothing had changed.
	// +optional
	Files *FilesStatus `json:"files,omitempty"`
}

// FilesStatus is one copying of files.
type FilesStatus struct {
	// bytes written.
	// +optional
	Bytes int64 `json:"bytes,omitempty"`
	// duration of looking for what has changed, and of writing it.
	// +optional
	Duration metav1.Duration `json:"duration,omitempty"`
}

// VolumesStatus is one copying of the pod's emptyDirs.
type VolumesStatus struct {
	// index of the pre-copy round. What was copied while the pod was frozen has the
	// index of the round that would have been the next.
	Index int32 `json:"index"`
	// The measurements.
	FilesStatus `json:",inline"`
}

// RoundStatus is one pre-copy round of one container.
type RoundStatus struct {
	// index of the round; round 0 copies all memory.
	Index int32 `json:"index"`
	// The measurements of the round.
	DumpStatus `json:",inline"`
	// dirtyBytes is the memory dirtied again by the end of the round.
	// +optional
	DirtyBytes int64 `json:"dirtyBytes,omitempty"`
	// predictedDowntime if the switchover had begun right after the round.
	// +optional
	PredictedDowntime *metav1.Duration `json:"predictedDowntime,omitempty"`
}
