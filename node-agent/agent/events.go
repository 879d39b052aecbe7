// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import corev1 "k8s.io/api/core/v1"

// event is one entry of the catalogue of what the agents tell in events.
type event struct {
	kind, reason, action, format string
}

var (
	evRound             = event{corev1.EventTypeNormal, "RoundFinished", "PreCopy", "round %d: %s written in %s, tasks stopped for %s; %s dirty"}
	evConverged         = event{corev1.EventTypeNormal, "Converged", "PreCopy", "%s"}
	evThrottled         = event{corev1.EventTypeNormal, "Throttled", "PreCopy", "%s"}
	evStalled           = event{corev1.EventTypeWarning, "PreCopyStalled", "PreCopy", "%s"}
	evNoTrack           = event{corev1.EventTypeWarning, "NoDirtyTracking", "PreCopy", "the node's kernel does not track dirty pages: the pod is moved with a single dump, all of it while frozen"}
	evRefused           = event{corev1.EventTypeWarning, "PreflightRefused", "Preflight", "%s: %s"}
	evMoment            = event{corev1.EventTypeNormal, "MomentChosen", "Switchover", "%s"}
	evSeparated         = event{corev1.EventTypeNormal, "ConnectionsEnded", "Switchover", "%d connections over Unix sockets between the pod's containers were closed: each container is dumped by itself; the containers can connect again"}
	evDumped            = event{corev1.EventTypeNormal, "FinalDump", "Switchover", "final dump: %s of memory, %s in all, published %s after the freeze"}
	evResumed           = event{corev1.EventTypeNormal, "SourceResumed", "Rollback", "the source pod goes on"}
	evKilled            = event{corev1.EventTypeNormal, "SourceKilled", "Complete", "the frozen source tasks are gone; the target was confirmed before"}
	evFenced            = event{corev1.EventTypeWarning, "SourceKilledByKubelet", "Switchover", "%s"}
	evParked            = event{corev1.EventTypeNormal, "TargetParked", "Prepare", "the target's containers are ready to be restored"}
	evCommitted         = event{corev1.EventTypeNormal, "Committed", "Switchover", "the image set is verified; from here the target owns the pod"}
	evRestored          = event{corev1.EventTypeNormal, "Restored", "Switchover", "the pod's processes run on %s, restored in %s"}
	evTakenBack         = event{corev1.EventTypeWarning, "RestoreFailed", "Rollback", "the restore failed and left nothing behind; the source goes on: %s"}
	evRetrying          = event{corev1.EventTypeWarning, "RestoreFailed", "Replace", "the restore failed and left nothing behind; the source is gone, so it is tried again: %s"}
	evConnectionsKept   = event{corev1.EventTypeNormal, "ConnectionsKept", "Switchover", "the pod has its addresses (%s), and its TCP connections go on"}
	evConnectionsClosed = event{corev1.EventTypeWarning, "ConnectionsClosed", "Switchover", "the pod's TCP connections cannot be kept: %s"}
	evOrphaned          = event{corev1.EventTypeWarning, "MigrationGone", "Switchover", "Migration %s was removed in the middle of its switchover, and the pod may run on the target: nothing of it runs here until this is known. Delete this pod if the target runs, or annotate it with %s=%s if the target does not and never will"}
	evUnclean           = event{corev1.EventTypeWarning, "ImagesNotRemoved", "Clean", "the images cannot be removed yet, which is tried again until it works: %s"}
	evFailed            = event{corev1.EventTypeWarning, "StepFailed", "Migrate", "%s: %s"}
)
