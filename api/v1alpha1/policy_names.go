// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package v1alpha1

// Marks by which a pod says itself what a drain is to do with it. Each may be a label
// or an annotation; the label is looked at first. Their prefix differs from the one
// that only the manager may write.
const (
	// MarkEvacuation is an Evacuation.
	MarkEvacuation = "policy.godwit.dev/evacuation"
	// MarkPriority is a number from -1000 to 1000.
	MarkPriority = "policy.godwit.dev/priority"
	// MarkOnStall is an OnStallPolicy.
	MarkOnStall = "policy.godwit.dev/on-stall"
	// MarkTargetDowntime is a duration, like 500ms.
	MarkTargetDowntime = "policy.godwit.dev/target-downtime"
	// MarkMaxRounds is a number from 0 to 16.
	MarkMaxRounds = "policy.godwit.dev/max-rounds"
	// MarkConnections is a ConnectionPolicy.
	MarkConnections = "policy.godwit.dev/connections"
	// MarkVolumePolicy is a VolumePolicy.
	MarkVolumePolicy = "policy.godwit.dev/volume-policy"
)

const (
	// LabelEvacuationOf carries the UID of the pod that a Migration evacuates, on
	// Migrations that a drain has made.
	LabelEvacuationOf = "godwit.dev/evacuation-of"
	// LabelEvacuationNode carries the node that is drained, on the same.
	LabelEvacuationNode = "godwit.dev/evacuation-node"
	// AnnotationDrain, set to "true" on a Node that is cordoned, has its pods
	// evacuated without any evictions.
	AnnotationDrain = "godwit.dev/drain"
	// AnnotationDrainDeadline on a Node is when a drain of it has to be over (RFC
	// 3339); migrations then take shortcuts rather than miss it.
	AnnotationDrainDeadline = "godwit.dev/drain-deadline"
)
