// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package v1alpha1

// Condition types of a Migration.
const (
	// ConditionEligible: the preflight found nothing that forbids the move.
	ConditionEligible = "Eligible"
	// ConditionTargetReady: the target pod is scheduled and its containers are parked.
	ConditionTargetReady = "TargetReady"
	// ConditionConverged: little enough memory is dirty for the switchover.
	ConditionConverged = "Converged"
	// ConditionHandedOver: the handover register is committed.
	ConditionHandedOver = "HandedOver"
	// ConditionComplete: the migration reached a final phase; its reason says which.
	ConditionComplete = "Complete"
	// ConditionTargetLost: the register is committed, and the target's node or
	// pod cannot be counted on any more; the source stays frozen. Like a node's
	// NetworkUnavailable it is True when something is wrong. A migration that
	// never was in doubt does not have it.
	ConditionTargetLost = "TargetLost"
	// ConditionQueued: the migration waits for others to end; its reason says which
	// limit it waits for. One that never had to wait does not have it.
	ConditionQueued = "Queued"
	// ConditionConnectionsKept: the pod's established TCP connections go on at the
	// target. A migration that was not to keep them does not have it.
	ConditionConnectionsKept = "ConnectionsKept"
)

// Reasons of conditions that are not failures.
const (
	// ReasonNotYet: nothing is known yet.
	ReasonNotYet          = "NotYet"
	ReasonPreflightPassed = "PreflightPassed"
	ReasonScheduling      = "Scheduling"
	ReasonGated           = "Gated"
	ReasonParked          = "Parked"
	ReasonCopying         = "Copying"
	ReasonWithinTarget    = "WithinTargetDowntime"
	ReasonConverged       = "Converged"
	ReasonCommitted       = "Committed"
	ReasonRestored        = "Restored"
	ReasonSucceeded       = "Succeeded"
	ReasonDryRunPassed    = "DryRunPassed"
	// Of TargetLost: True because kubelet does not report; the reasons
	// TargetNodeLost and TargetPodGone are failures as well.
	ReasonTargetNodeNotReady = "TargetNodeNotReady"
	// False: the target was heard of again, or the matter was decided.
	ReasonTargetFound    = "TargetFound"
	ReasonTargetResolved = "Resolved"
	// Of Queued: which limit on migrations side by side is reached.
	ReasonClusterLimit    = "ClusterLimit"
	ReasonSourceNodeLimit = "SourceNodeLimit"
	ReasonTargetNodeLimit = "TargetNodeLimit"
	// ReasonVolumeBandwidthLimit: those that go on write as much to the volume as they may.
	ReasonVolumeBandwidthLimit = "VolumeBandwidthLimit"
	// Of Queued: no node takes the pod now; one may come.
	ReasonNoNodeYet = "NoNodeYet"
	// False: it has begun, or ended.
	ReasonAdmitted = "Admitted"
	// Of ConnectionsKept.
	ReasonConnectionsHeld = "Held"
	ReasonConnectionsKept = "Kept"
	// False: the target did not get the source's address, or a restore that keeps the
	// connections has failed more than once.
	ReasonAddressChanged         = "AddressChanged"
	ReasonConnectionsNotRestored = "ConnectionsNotRestored"
)

// Failure reasons: why the controller gave up.
const (
	ReasonCancelled              = "Cancelled"
	ReasonTimeout                = "Timeout"
	ReasonSwitchoverTimeout      = "SwitchoverTimeout"
	ReasonSourcePodNotFound      = "SourcePodNotFound"
	ReasonSourcePodNotRunning    = "SourcePodNotRunning"
	ReasonSourcePodGone          = "SourcePodGone"
	ReasonSourceNodeNotReady     = "SourceNodeNotReady"
	ReasonConflictingMigration   = "ConflictingMigration"
	ReasonPreflightRefused       = "PreflightRefused"
	ReasonNoEligibleNode         = "NoEligibleNode"
	ReasonTargetNodeNotEligible  = "TargetNodeNotEligible"
	ReasonTargetPodExists        = "TargetPodExists"
	ReasonTargetPodCreateRefused = "TargetPodCreateRefused"
	ReasonTargetPodFailed        = "TargetPodFailed"
	ReasonTargetPodGone          = "TargetPodGone"
	ReasonStalled                = "Stalled"
	// ReasonRolloutInProgress: the pod's Deployment has begun to replace it.
	ReasonRolloutInProgress = "RolloutInProgress"
	// ReasonOwnerChanged: the pod does not belong any more to the workload
	// controller that it belonged to, or that one is gone or has ended.
	ReasonOwnerChanged = "OwnerChanged"
	// ReasonReplacementNotSteered: the workload controller has replaced the released
	// source, and the admission webhook did not make the replacement the target.
	ReasonReplacementNotSteered = "ReplacementNotSteered"
	// ReasonTargetNodeLost: the target's node is known to be gone (its Node was
	// deleted or made anew, or is tainted out-of-service) and nothing was ever
	// restored there; the controller takes the commit back.
	ReasonTargetNodeLost = "TargetNodeLost"
	// ReasonResolvedToSource: a person decided that the source goes on.
	ReasonResolvedToSource = "ResolvedToSource"
)

// Refusal reasons of the preflight: properties of the pod or the node that
// forbid the move, each with a way out in its message.
const (
	ReasonOwnedPod              = "OwnedPod"
	ReasonStaticPod             = "StaticPod"
	ReasonEphemeralContainers   = "EphemeralContainers"
	ReasonHostNetwork           = "HostNetwork"
	ReasonHostNamespaces        = "HostNamespaces"
	ReasonShareProcessNamespace = "ShareProcessNamespace"
	ReasonUserNamespace         = "UserNamespace"
	ReasonCRIUConfig            = "CRIUConfig"
	ReasonPrivileged            = "Privileged"
	ReasonTerminal              = "Terminal"
	ReasonExecSession           = "ExecSession"
	ReasonVolumeNotPortable     = "VolumeNotPortable"
	// ReasonVolumeFileOpen: a file of a ConfigMap, a Secret or the like is open.
	ReasonVolumeFileOpen = "VolumeFileOpen"
	// ReasonFilesNotPortable: among the files that travel is one that cannot, or they
	// are too many.
	ReasonFilesNotPortable    = "FilesNotPortable"
	ReasonDevices             = "Devices"
	ReasonHugePages           = "HugePages"
	ReasonRuntimeNotSupported = "RuntimeNotSupported"
	ReasonMultipathTCP        = "MultipathTCP"
	ReasonUnsupportedSocket   = "UnsupportedSocket"
	ReasonIOUring             = "IOUring"
	ReasonMessageQueue        = "MessageQueue"
	ReasonPodAddressListener  = "PodAddressListener"
	ReasonProcessTraced       = "ProcessTraced"
	ReasonDescriptor          = "UnsupportedDescriptor"
	ReasonNestedNamespace     = "NestedNamespace"
	ReasonDeletedFile         = "DeletedFile"
	ReasonForeignFile         = "ForeignFile"
	ReasonLostWatch           = "LostWatch"
	ReasonNoSpace             = "NoSpace"
	ReasonImageNotPinned      = "ImageNotPinned"
	ReasonCheckpointNotUsable = "CheckpointNotUsable"
	ReasonPreflightError      = "PreflightError"
	// ReasonProbeBudgetTooShort: a liveness or startup probe has less patience
	// with a frozen container than any switchover needs.
	ReasonProbeBudgetTooShort = "ProbeBudgetTooShort"
	// ReasonPostStartHook: kubelet would run a container's postStart hook again.
	ReasonPostStartHook = "PostStartHook"
	// ReasonSidecarStartupProbe: kubelet creates what follows a sidecar only when its
	// startup probe has succeeded, which it cannot before all are restored.
	ReasonSidecarStartupProbe = "SidecarStartupProbe"
	// ReasonForeignUnixPeer: a Unix socket is connected to something outside the pod, or
	// to another container, and the connection could not be ended.
	ReasonForeignUnixPeer = "ForeignUnixPeer"
	// ReasonSharedWithContainer: two containers share memory, a pipe, or objects of
	// System V IPC, each of which would be dumped with both.
	ReasonSharedWithContainer = "SharedWithContainer"
	// ReasonNameNotKept: the pod's connections are to be kept, and it would have its
	// target beside it, under another name and with another address.
	ReasonNameNotKept = "NameNotKept"
	// ReasonAddressNotPinned: the pod's connections are to be kept, and nothing gives the
	// target its address.
	ReasonAddressNotPinned = "AddressNotPinned"
	// ReasonNotStarted: a startup probe has not succeeded yet.
	ReasonNotStarted = "NotStarted"
)

// Failure reasons of the agents.
const (
	ReasonPreDumpFailed   = "PreDumpFailed"
	ReasonRoundTimeout    = "RoundTimeout"
	ReasonThrottleFailed  = "ThrottleFailed"
	ReasonFreezeFailed    = "FreezeFailed"
	ReasonFinalDumpFailed = "FinalDumpFailed"
	ReasonVolumeError     = "VolumeError"
	ReasonSourceChanged   = "SourceChanged"
	ReasonGateFailed      = "GateFailed"
	// ReasonAddressNotHeld: the target's node could not keep its network from answering
	// the peers of a pod whose connections are to be kept.
	ReasonAddressNotHeld = "AddressNotHeld"
	ReasonParkTimeout    = "ParkTimeout"
	// ReasonNotInTurn: a create of a container came before that of the pod's first one.
	ReasonNotInTurn       = "NotInTurn"
	ReasonImageSetInvalid = "ImageSetInvalid"
	ReasonRestoreFailed   = "RestoreFailed"
	ReasonAgentLost       = "AgentLost"
	ReasonAgentError      = "AgentError"
	// ReasonSourceKilled: kubelet ended the frozen source's container, whose
	// probes it took for dead.
	ReasonSourceKilled = "SourceKilled"
	// ReasonProbeBudgetSpent: the switchover took so long that kubelet was about
	// to take the frozen source for dead.
	ReasonProbeBudgetSpent = "ProbeBudgetSpent"
	// ReasonProcessLost: the frozen process was gone when it was to go on, since
	// its node restarted or somebody killed it. Nothing is left of it on either
	// side; kubelet starts the container afresh if its restartPolicy says so.
	ReasonProcessLost = "ProcessLost"
)
