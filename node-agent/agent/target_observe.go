// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/migration"
)

// observe gathers what DecideTarget looks at.
func (t *targetSession) observe(ctx context.Context, m *v1alpha1.Migration, pod *corev1.Pod) migration.TargetObservation {
	o := migration.TargetObservation{
		Phase: m.Status.Phase, Report: t.report,
		VerifiedRounds: t.report.VerifiedRounds,
		GateRunning:    gateID(pod) != "",
		TreeGone:       t.provedGone(m.Status.Handover),
		PodGone:        pod == nil,
		NodeChanged:    m.Status.Target.NodeUID != "" && m.Status.Target.NodeUID != t.nodeUID,
		RestoreFailed:  t.restoreFailed,
		Rebooted:       t.report.BootID != "" && t.report.BootID != t.BootID,
		SameName:       migration.SameName(m),
		Placeholder:    migration.IsPlaceholder(m),
	}
	if o.SameName {
		// Nothing is restored before that is reported, with the boot in which it is.
		o.Rebooted = o.Rebooted && t.report.RestoreStartedAt != nil
	}
	if h := m.Status.Handover; h != nil {
		o.Handover = h.State
	} else if t.committed {
		o.Handover = v1alpha1.HandoverCommitted
	}
	if s := m.Status.Source; s != nil {
		o.SourceState, o.ManifestDigest = s.State, s.ManifestDigest
		if s.Round != nil {
			o.SourceRounds = *s.Round
		}
	}
	t.observeCreates(ctx, &o, pod)
	return o
}

// observeCreates sums up what the node shows of the pod's containers.
func (t *targetSession) observeCreates(ctx context.Context, o *migration.TargetObservation, pod *corev1.Pod) {
	all := len(t.containers) > 0
	restored, still, marked := all, all, false
	o.Prepared, o.Settled = true, true
	t.progress, t.settling = time.Time{}, false
	facts := map[string]createFacts{}
	for i, name := range t.containers {
		f := t.createFacts(ctx, name, pod)
		facts[name] = f
		o.Parked = o.Parked || i == 0 && f.waiting
		restored, still = restored && f.restored, still && (f.restored || f.standing)
		marked = marked || f.marked
		o.Lost = o.Lost || f.lost
		o.RestoreBegun = o.RestoreBegun || f.marked || f.restoring || f.failed || f.standing
		o.Restoring = o.Restoring || f.restoring
		o.RestoreFailed = o.RestoreFailed || f.failed
		t.settling = t.settling || f.settling
		if f.since.After(t.progress) {
			t.progress = f.since
		}
		l := t.parking.lot(t.podUID, name)
		o.Prepared = o.Prepared && (l == nil || l.isPrepared())
		o.Settled = o.Settled && (l == nil || l.isSettled())
		if f.waiting && l != nil {
			o.ParkExpired = o.ParkExpired || t.Now().Sub(l.since) > t.Timeouts.Park
		}
	}
	o.Restored, o.StandStill = restored, still && !restored
	if o.Handover != v1alpha1.HandoverCommitted || restored || o.Restoring {
		return
	}
	for _, name := range t.containers {
		f := facts[name]
		if t.parking.lot(t.podUID, name) == nil && !f.marked && (!f.standing && t.cannotRestore(pod) || ended(pod)) {
			o.RestoreFailed = true
		}
	}
	// Some have been let go, or may have been: then the pod has run.
	o.Lost = o.Lost || marked && o.RestoreFailed
}

// cannotRestore: committed, but no create is parked, and none can come or it is
// too late for one.
func (t *targetSession) cannotRestore(pod *corev1.Pod) bool {
	if ended(pod) {
		return true
	}
	limit, begun := t.Timeouts.Park+t.Timeouts.Restore, t.report.RestoreStartedAt
	if !t.progress.IsZero() {
		// Kubelet goes on at once to create the next container; it has the time of a
		// restore for it, and for getting its image if it has to.
		return t.Now().Sub(t.progress) > t.Timeouts.Restore
	}
	return begun != nil && t.Now().Sub(begun.Time) > limit
}

// ended: kubelet creates no container of the pod any more.
func ended(pod *corev1.Pod) bool {
	return pod == nil || pod.DeletionTimestamp != nil || pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded
}
