// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/failpoint"
	"godwit.dev/godwit/internal/wire"
)

// A pod that keeps its name is restored when its source is gone: into the pod that its
// controller has made under that name. There is no way back then. Nothing is restored
// before it is published that it will be, and in which boot, so that a node that has
// restarted tells whether something may have run; and a restore that has failed, and
// is seen to have left nothing, is tried again when kubelet creates the container anew.

// turnTo forgets what was about another pod. It says whether that was published that a
// restore into it begins: while it stands there no other pod is made the target.
func (t *targetSession) turnTo(podUID string) (published bool) {
	if t.podUID != "" {
		published = t.report.RestoreStartedAt != nil
		t.giveBack(v1alpha1.ReasonCancelled, "another pod is the target")
		t.forgetRestore()
	}
	t.podUID = podUID
	return published
}

// forgetRestore: nothing was restored into the pod yet, or nothing is left of it.
func (t *targetSession) forgetRestore() {
	t.restoreFailed, t.treeGone, t.filesAt, t.lifted = false, false, nil, false
	t.report.Containers, t.report.RestoreStartedAt, t.report.BootID = nil, nil, ""
	t.report.State = v1alpha1.TargetReleased
}

// openSuccessor ends the gate of the pod that has the name now. Its volumes have what
// they are to have before kubelet mounts parts of them into containers (subPath).
func (t *targetSession) openSuccessor(ctx context.Context, m *v1alpha1.Migration, pod *corev1.Pod) error {
	err := t.unpackSet(ctx, m, pod)
	if err == nil {
		err = t.endGate(ctx, pod)
	}
	if err != nil {
		return errors.Join(err, t.troubled(ctx, unpackFailure(err)))
	}
	failpoint.At("target-gate-opened")
	t.report.State, t.report.Failure = v1alpha1.TargetReleased, nil
	return t.publish(ctx)
}

// troubled publishes why the restore does not go on. It is tried again.
func (t *targetSession) troubled(ctx context.Context, f *v1alpha1.Failure) error {
	if t.report.Failure != nil && *t.report.Failure == *f {
		return nil
	}
	t.report.Failure = f
	return t.publish(ctx)
}

// restoreSuccessor orders the restore of the creates that wait.
func (t *targetSession) restoreSuccessor(ctx context.Context, m *v1alpha1.Migration, pod *corev1.Pod) (again, error) {
	if !t.waiting() || pod == nil {
		return again(time.Second), nil // kubelet, or the pod's controller, has to act first
	}
	if err := t.unpackSet(ctx, m, pod); err != nil {
		t.refuseParked(err)
		return now, t.troubled(ctx, unpackFailure(err))
	}
	if t.report.RestoreStartedAt == nil {
		if err := t.judgeConnections(m, pod); err != nil {
			return never, err
		}
		t.report.State, t.report.BootID = v1alpha1.TargetRestoring, t.BootID
		t.report.RestoreStartedAt = microTime(t.Now())
		if err := t.publish(ctx); err != nil {
			t.loaded = false // nothing may be restored on the strength of what is not stored
			return never, err
		}
		failpoint.At("target-replacing")
	}
	if err := t.noteCreates(ctx); err != nil {
		return never, err
	}
	// Past the cache: the controller names another pod only as long as it has not read
	// what was just published.
	live, err := t.get(ctx, t.Live)
	if err != nil {
		return never, err
	}
	h, target := live.Status.Handover, live.Status.Target
	if h == nil || h.State != v1alpha1.HandoverCommitted || live.Status.Phase != v1alpha1.PhaseReplacing || target == nil ||
		string(target.PodUID) != t.podUID || target.RestoreStartedAt == nil {
		return again(time.Second), fmt.Errorf("the migration is not about pod %s any more", t.podUID)
	}
	if err := t.tellRestore(t.Timeouts.Restore); err != nil {
		return never, err
	}
	failpoint.At("target-told")
	return again(time.Second), nil
}

// unpackSet unpacks what is not yet where it can go now. The set was verified before
// the commit; what is read of it again is held against its manifest, and that against
// the digest.
func (t *targetSession) unpackSet(ctx context.Context, m *v1alpha1.Migration, pod *corev1.Pod) error {
	if err := t.readManifest(ctx, m); err != nil {
		return err
	}
	return t.unpack(ctx, t.manifest, pod)
}

// retry makes way for another restore. Nothing of the one before is left, nor has any
// of it run; see DecideTarget.
func (t *targetSession) retry(ctx context.Context, m *v1alpha1.Migration) error {
	f := t.report.Failure
	if f == nil {
		f = &v1alpha1.Failure{Reason: v1alpha1.ReasonRestoreFailed, Message: "the restore failed"}
	}
	for _, name := range t.containers {
		if t.consumed(t.podUID, name) {
			return fmt.Errorf("container %s may have run, and is not restored again", name)
		}
	}
	for _, name := range t.containers {
		// They say that a restore was ordered, and with them the next one would have failed.
		if err := wire.RemoveEnded(t.RunDir, t.podUID, name); err != nil {
			return err
		}
	}
	failpoint.At("target-retrying")
	t.forgetRestore()
	t.report.Failure = f
	t.report.FailedRestores++
	if err := t.publishOnce(ctx); err != nil {
		t.loaded = false
		return err
	}
	failures.WithLabelValues(string(roleTarget), f.Reason).Inc()
	t.event(m, evRetrying, f.Message)
	return nil
}

// publishOnce publishes that a restore is forgotten. Stored once more when the next one
// has begun, that would let another pod be made the target beside this one.
func (t *targetSession) publishOnce(ctx context.Context) error {
	for {
		live, err := t.get(ctx, t.Live)
		if err != nil {
			return err
		}
		if target := live.Status.Target; target == nil || string(target.PodUID) != t.podUID {
			return fmt.Errorf("the migration is not about pod %s any more", t.podUID)
		}
		err = t.applyTo(ctx, live.ResourceVersion, "target", v1alpha1.FieldManagerTarget, &t.report)
		if !apierrors.IsConflict(err) {
			return err
		}
	}
}
