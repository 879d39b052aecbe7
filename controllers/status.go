// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/failpoint"
	"godwit.dev/godwit/internal/migration"
)

// writtenBy is what the controller signs the handover register with.
const writtenBy = "controller"

// maxMessage is the longest status.message, in bytes.
const maxMessage = 4096

// store writes what a pass has found out and decided into the status, and then
// tells about it. The write is a patch of the controller's own fields with the
// resourceVersion that was read as precondition: it leaves the agents' reports
// alone, and it fails with a conflict when anyone wrote in between. That makes
// the abort, which is part of it, the one write of the handover register.
func (r *MigrationReconciler) store(ctx context.Context, w *world, d migration.Decision) error {
	before := w.Migration
	after := before.DeepCopy()
	project(after, w, d)
	if equality.Semantic.DeepEqual(before.Status, after.Status) {
		return nil
	}
	if before.Status.Phase != after.Status.Phase {
		failpoint.In("manager-entering", string(after.Status.Phase))
	}
	if targetUID(before) != targetUID(after) {
		failpoint.In("manager-naming", string(after.Status.Phase))
	}
	patch := client.MergeFromWithOptions(before.DeepCopy(), client.MergeFromWithOptimisticLock{})
	// The answer overwrites what it is given.
	if err := r.Client.Status().Patch(ctx, after.DeepCopy(), patch, client.FieldOwner(v1alpha1.FieldManagerController)); err != nil {
		return fmt.Errorf("write status: %w", err)
	}
	if before.Status.Phase != after.Status.Phase {
		failpoint.In("manager-entered", string(after.Status.Phase))
		ctrl.LoggerFrom(ctx).Info("entered a phase", "newPhase", after.Status.Phase, "message", after.Status.Message)
	}
	if o := after.Status.Owner; o != nil && (before.Status.Owner == nil || before.Status.Owner.State != o.State) {
		failpoint.In("manager-owner", string(o.State))
	}
	r.announce(before, after)
	r.Metrics.observe(before, after, w.Now)
	return nil
}

// targetUID is the UID of the recorded target pod, if there is one.
func targetUID(m *v1alpha1.Migration) types.UID {
	if m.Status.Target == nil {
		return ""
	}
	return m.Status.Target.PodUID
}

// project puts a pass's findings and its decision into m's status. It touches
// the controller's fields only.
func project(m *v1alpha1.Migration, w *world, d migration.Decision) {
	s := &m.Status
	now := metav1.NewMicroTime(w.Now.UTC().Truncate(time.Microsecond))
	s.ObservedGeneration = m.Generation
	followPods(s, w)
	followOwner(s, w, d)
	if w.handoff != nil {
		s.Handoff = *w.handoff
	}
	if !begun(w.Migration) && w.connections != nil {
		s.Connections = w.connections
	}
	if s.Policy == nil {
		s.Policy = w.policy
	}
	if d.Failure != nil {
		s.Failure = d.Failure.DeepCopy()
		s.Failure.Message = migration.Shorten(s.Failure.Message, maxMessage)
	}
	if d.Message != "" {
		s.Message = migration.Shorten(d.Message, maxMessage)
	}
	projectResolution(m, d)
	if d.Action == migration.Abort || d.Action == migration.Reclaim {
		s.Handover = &v1alpha1.Handover{State: v1alpha1.HandoverAborted, By: writtenBy,
			Reason: s.Failure.Reason, Message: s.Failure.Message, Time: now}
	}
	if d.Phase != "" && d.Phase != s.Phase {
		s.Phase = d.Phase
		if migration.EnteredAt(s, d.Phase).IsZero() {
			s.PhaseTransitionTimestamps = append(s.PhaseTransitionTimestamps, v1alpha1.PhaseTransitionTimestamp{Phase: d.Phase, Time: now})
		}
		if migration.Finished(d.Phase) {
			t := metav1.NewTime(w.Now.UTC().Truncate(time.Second))
			s.CompletionTime = &t
		}
	}
	measure(s)
	lost, queued := migration.TargetLostCondition(m, d, w.Now), migration.QueuedCondition(m, d, w.Now)
	kept := migration.ConnectionsCondition(m, w.Now)
	s.Conditions = migration.Conditions(m, w.Now)
	for _, c := range []*metav1.Condition{lost, queued, kept} {
		if c != nil {
			s.Conditions = append(s.Conditions, *c)
		}
	}
}

// followPods records which pods the migration is about. A source is recorded
// once: authority is bound to that very pod.
func followPods(s *v1alpha1.MigrationStatus, w *world) {
	if w.source != nil {
		if s.Source == nil {
			s.Source = &v1alpha1.SourceStatus{}
		}
		if s.Source.PodUID == "" {
			s.Source.PodRef = refOf(w.source)
		}
	}
	if w.target != nil {
		if s.Target == nil {
			s.Target = &v1alpha1.TargetStatus{}
		}
		switch {
		case replaced(w.Migration):
			followSuccessor(s.Target, w.target)
		case s.Target.PodUID == "" || s.Target.PodUID == w.target.UID:
			s.Target.PodRef = refOf(w.target)
		}
		if migration.SameName(w.Migration) && !replaced(w.Migration) {
			ref := s.Target.PodRef
			s.Placeholder = &ref
		}
		if s.Target.NodeUID == "" {
			s.Target.NodeUID = w.nodeUID
		}
		if committed(w.Migration) && w.Target.Started && s.Target.StartedAt == nil {
			now := metav1.NewMicroTime(w.Now.UTC().Truncate(time.Microsecond))
			s.Target.StartedAt = &now
		}
	}
}

func refOf(pod *corev1.Pod) v1alpha1.PodRef {
	return v1alpha1.PodRef{NodeName: pod.Spec.NodeName, PodName: pod.Name, PodUID: pod.UID}
}

// measure sums up the agents' measurements. What was once measured stays, even
// when a report that it came from is cut short.
func measure(s *v1alpha1.MigrationStatus) {
	s.BytesTransferred = max(s.BytesTransferred, migration.BytesTransferred(s))
	if s.Handover == nil || s.Handover.State != v1alpha1.HandoverCommitted {
		return
	}
	if d := migration.Downtime(s); d != nil {
		s.Downtime = d
	}
}
