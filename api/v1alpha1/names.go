// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package v1alpha1

// Names that the manager, the node agents and the cluster agree on.
const (
	// Finalizer is held by a Migration until the source is known to run or the
	// target to be confirmed, and the images are gone.
	Finalizer = "godwit.dev/migration"

	// LabelMigration carries a Migration's UID on its target pod. It is a
	// handle for people and selectors; authority comes from status.target.podUID.
	LabelMigration = "godwit.dev/migration"
	// AnnotationMigration carries "namespace/name" of the Migration on its
	// target pod. containerd copies it into the container's OCI annotations,
	// where it can only make the runtime wrapper refuse, never restore.
	AnnotationMigration = "godwit.dev/migration"
	// AnnotationRelease is on a source pod that was released from its workload
	// controller, and holds what is needed to give it back (JSON).
	AnnotationRelease = "godwit.dev/release"
	// AnnotationPlaceholder is on the pod that keeps the place of one that keeps its
	// name, and holds what that one has and the placeholder lacks (JSON).
	AnnotationPlaceholder = "godwit.dev/placeholder"
	// FinalizerPlaceholder is held by such a pod until the pod is made again, or the
	// migration is rolled back: nothing else may be left that says what the pod was.
	FinalizerPlaceholder = "godwit.dev/placeholder"
	// AnnotationRehearsal is on a pod that the manager creates as a dry run: the
	// webhook is not to take it for what it says.
	AnnotationRehearsal = "godwit.dev/rehearsal"
	// AnnotationCancel, set to "true" on a Migration, asks for it to be cancelled.
	AnnotationCancel = "godwit.dev/cancel"

	// AnnotationResolve, set on a Migration that has committed, is a person's
	// answer to the question which side goes on; its value is a ResolveRequest.
	// It is answered once, in status.resolution, and then removed.
	AnnotationResolve = "godwit.dev/resolve"

	// RuntimeClassName is the RuntimeClass, and the containerd runtime handler,
	// that target pods run under.
	RuntimeClassName = "godwit"
	// GateContainerName is the init container that holds a target pod back
	// until its switchover is near.
	GateContainerName = "godwit-gate"

	// LabelNodeReady is "true" on nodes whose agent can take part in a migration.
	LabelNodeReady = "godwit.dev/ready"
	// LabelNodeDirtyTracking is "true" on nodes whose kernel tracks dirty pages,
	// "false" on those that can only do a single dump.
	LabelNodeDirtyTracking = "godwit.dev/dirty-tracking"
	// LabelNodeFence says what keeps kubelet from starting a frozen source
	// afresh on the node: FenceNRI or FenceBudget.
	LabelNodeFence = "godwit.dev/fence"
	// FenceNRI: the agent is asked before a container is created, through NRI.
	FenceNRI = "nri"
	// FenceBudget: nothing but the limit that probes put on the freeze.
	FenceBudget = "budget"
	// AnnotationNodeFacts holds the NodeFacts of a node as JSON.
	AnnotationNodeFacts = "godwit.dev/node-facts"

	// FieldManagerController owns everything in a Migration's status that no
	// agent owns.
	FieldManagerController = "godwit-controller"
	// FieldManagerSource owns the report in status.source.
	FieldManagerSource = "godwit-source-agent"
	// FieldManagerTarget owns the report in status.target.
	FieldManagerTarget = "godwit-target-agent"
	// FieldManagerNode owns the labels and the annotation an agent keeps on its Node.
	FieldManagerNode = "godwit-node-agent"
)
