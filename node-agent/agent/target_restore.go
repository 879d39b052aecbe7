// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/failpoint"
	"godwit.dev/godwit/internal/migration"
	"godwit.dev/godwit/internal/wire"
	"godwit.dev/godwit/node-agent/images"
)

// commitAndRestore is the target's part of the hot path: verify what was not
// verified yet, commit, restore. The file differences are applied while the
// register is being written: an aborted target is thrown away with them.
func (t *targetSession) commitAndRestore(ctx context.Context, m *v1alpha1.Migration, pod *corev1.Pod) error {
	digest := m.Status.Source.ManifestDigest
	var line timeline
	line.mark("seen", t.Now())
	set, err := t.set()
	if err != nil {
		return err
	}
	// The source waits no longer than this for the commit.
	manifest, err := reading(ctx, t, m.Spec.SwitchoverTimeout.Duration, "verify the image set", func(ctx context.Context) (*images.Manifest, error) {
		return set.Verify(ctx, digest)
	})
	if err == nil {
		err = t.checkUnpacked(manifest)
	}
	if err != nil {
		return t.failReading(ctx, m, err)
	}
	if _, err := t.restoreLimit(m); err != nil {
		return t.fail(ctx, m, v1alpha1.ReasonProbeBudgetSpent, err)
	}
	// Once it is committed the source may be removed, and the new pod made.
	if err := t.holdAddresses(ctx, m); err != nil {
		return t.fail(ctx, m, v1alpha1.ReasonAddressNotHeld, fmt.Errorf("this node cannot keep the pod's peers from being answered before it runs: %w", err))
	}
	t.manifest = manifest
	failpoint.At("target-verified")
	line.mark("verified", t.Now())
	placeholder := migration.IsPlaceholder(m)
	var g errgroup.Group
	g.Go(func() error {
		if placeholder {
			return nil
		}
		return t.unpack(ctx, manifest, pod)
	})
	commitErr := t.commit(ctx, digest)
	unpackErr := g.Wait()
	switch {
	case errors.Is(commitErr, errRegisterTaken):
		t.log.Info("did not commit", "error", commitErr.Error())
		return t.syncRegister(ctx)
	case commitErr != nil:
		// Whether it was stored is not known; look at the live object.
		live, err := t.get(ctx, t.Live)
		if err != nil {
			return errors.Join(commitErr, err)
		}
		if h := live.Status.Handover; h == nil || h.State != v1alpha1.HandoverCommitted {
			return commitErr
		}
	}
	failpoint.At("target-committed")
	line.mark("committed", t.Now())
	t.committed = true
	if placeholder {
		t.log.Info("committed, before the source gives its name up", "timeline", line.mark("done", t.Now()))
		t.giveBack(v1alpha1.ReasonCancelled, "the place is kept no longer")
		t.event(m, evCommitted)
		return nil
	}
	t.report.State = v1alpha1.TargetRestoring
	t.report.RestoreStartedAt = microTime(t.Now())
	limit, late := t.restoreLimit(m)
	switch {
	case late != nil:
		t.tooLate(late)
	case unpackErr != nil:
		t.report.Failure = unpackFailure(unpackErr)
		t.refuseParked(unpackErr)
	default:
		if err := t.tellRestore(limit); err != nil {
			t.log.Error(err, "telling the wrapper")
		}
	}
	failpoint.At("target-told")
	// From here nothing waits for this: the restore is running.
	t.tellAssembled(set)
	t.log.Info("committed", "timeline", line.mark("told", t.Now()))
	t.event(m, evCommitted)
	return t.publish(ctx)
}

// syncRegister waits until the cache shows the register another has written.
func (t *targetSession) syncRegister(ctx context.Context) error {
	live, err := t.get(ctx, t.Live)
	if err != nil {
		return err
	}
	if live.Status.Handover == nil && live.Status.Phase == v1alpha1.PhaseSwitchingOver {
		return nil // it was another test that failed: look again
	}
	for ctx.Err() == nil {
		m, err := t.get(ctx, t.Client)
		if err != nil || m.ResourceVersion == live.ResourceVersion || m.Status.Handover != nil || m.Status.Phase != v1alpha1.PhaseSwitchingOver {
			return err
		}
		t.await(ctx, again(time.Second))
	}
	return ctx.Err()
}

// restore goes on with a committed migration: after a restart of the agent, or
// when kubelet has tried the create again.
func (t *targetSession) restore(ctx context.Context, m *v1alpha1.Migration, pod *corev1.Pod) (again, error) {
	if migration.SameName(m) {
		return t.restoreSuccessor(ctx, m, pod)
	}
	if t.waiting() {
		// The cache may show a commit that was taken back, or given up for a node
		// that was lost: then the source runs.
		live, err := t.get(ctx, t.Live)
		if err != nil {
			return never, err
		}
		if h := live.Status.Handover; h == nil || h.State != v1alpha1.HandoverCommitted {
			return now, t.syncRegisterState(ctx, v1alpha1.HandoverAborted)
		}
	}
	if t.report.RestoreStartedAt == nil {
		t.report.State = v1alpha1.TargetRestoring
		t.report.RestoreStartedAt = microTime(t.Now())
		if err := t.publish(ctx); err != nil {
			return never, err
		}
	}
	if err := t.noteCreates(ctx); err != nil {
		return never, err
	}
	if err := t.unpackAgain(ctx, m, pod); err != nil {
		t.report.Failure = unpackFailure(err)
		t.refuseParked(err)
		return now, nil
	}
	limit, late := t.restoreLimit(m)
	if late != nil {
		t.tooLate(late)
		return now, nil
	}
	if err := t.tellRestore(limit); err != nil {
		return never, err
	}
	return again(time.Second), nil
}

// unpackAgain is unpack for the next container, or a session that has not verified the
// set itself.
func (t *targetSession) unpackAgain(ctx context.Context, m *v1alpha1.Migration, pod *corev1.Pod) error {
	if !t.waiting() {
		return nil // until kubelet creates the next one
	}
	if err := t.readManifest(ctx, m); err != nil {
		return err
	}
	return t.unpack(ctx, t.manifest, pod)
}

// readManifest reads the manifest that was committed, unless this session has verified it.
func (t *targetSession) readManifest(ctx context.Context, m *v1alpha1.Migration) error {
	if t.manifest != nil {
		return nil
	}
	set, err := t.set()
	if err != nil {
		return err
	}
	digest := m.Status.Source.ManifestDigest
	manifest, err := onVolume(ctx, &t.sessionBase, t.Timeouts.Restore, "read the manifest", func(ctx context.Context) (*images.Manifest, error) {
		return set.Manifest(ctx, digest)
	})
	if err != nil {
		return err
	}
	t.manifest = manifest
	return nil
}

// waiting says whether a create of the pod waits to be told what to do.
func (t *targetSession) waiting() bool {
	return slices.ContainsFunc(t.parking.ofPod(t.podUID), (*parked).waits)
}

// noteCreates publishes which creates are to be restored. An earlier create of
// the same container has begun nothing: one that was told to restore has either
// succeeded or failed, and then there is no other.
func (t *targetSession) noteCreates(ctx context.Context) error {
	changed := false
	for _, name := range t.containers {
		l, c := t.parking.lot(t.podUID, name), t.container(name)
		if l != nil && c.ContainerID != l.req.ContainerID {
			c.ContainerID, c.ParkedAt, changed = l.req.ContainerID, microTime(l.since), true
		}
	}
	if !changed {
		return nil
	}
	return t.publish(ctx)
}

// bundle is the OCI bundle of a container whose create is no longer parked.
func (t *targetSession) bundle(id string) string { return filepath.Join(t.BundleDir, id) }

// reportRestored publishes that the pod runs here.
func (t *targetSession) reportRestored(ctx context.Context, m *v1alpha1.Migration) error {
	if err := t.liftHold(ctx); err != nil {
		return err
	}
	var last time.Time
	for _, name := range t.containers {
		// The mark says how it went also to an agent that was not there.
		mark, found, err := wire.Mark(t.RunDir, t.podUID, name)
		if err != nil {
			return err
		}
		res := mark.Result
		if found {
			t.container(name).ContainerID = mark.ContainerID
		}
		l := t.parking.lot(t.podUID, name)
		if l != nil {
			if _, _, _, told := l.state(); told != nil {
				res = told
			}
			t.parking.drop(l)
		}
		if res != nil {
			c := t.container(name)
			c.Restore = &v1alpha1.RestoreStatus{StartTime: metav1.NewMicroTime(res.Start), Duration: duration(res.Duration)}
			restoreDuration.Observe(res.Duration.Seconds())
			end := res.Start.Add(res.Duration)
			if mark.LetGoAt != nil {
				end = *mark.LetGoAt
			}
			if end.After(last) {
				last = end
			}
		}
	}
	if last.IsZero() {
		last = t.Now() // the marks do not tell
	}
	t.report.State = v1alpha1.TargetRestored
	t.report.RestoredAt = microTime(last)
	t.report.Failure = nil
	t.connectionsKept(m)
	took := time.Duration(0)
	if t.report.RestoreStartedAt != nil {
		took = last.Sub(t.report.RestoreStartedAt.Time)
	}
	failpoint.At("target-restored")
	if err := t.publish(ctx); err != nil {
		return err
	}
	t.event(m, evRestored, t.NodeName, took.Round(time.Millisecond))
	t.log.Info("restored", "took", took)
	return nil
}

// discard removes what was restored, or what a failed restore left, and proves
// that it is gone. Nobody restores any more when it is called (see
// DecideTarget); what is still parked is given back.
func (t *targetSession) discard(ctx context.Context, m *v1alpha1.Migration) (again, error) {
	t.giveBack(v1alpha1.ReasonRestoreFailed, "the pod is removed from this node")
	if gone, err := t.killRestored(ctx); err != nil || !gone {
		return again(killInterval), err
	}
	var msgs []string
	ran := false
	for _, name := range t.containers {
		ran = ran || t.consumed(t.podUID, name)
		left, said, err := t.leftovers(name)
		if err != nil {
			return never, err
		}
		if said != "" {
			msgs = append(msgs, name+": "+said)
		}
		for _, id := range left {
			if err := t.Node.Killer.Discard(ctx, id, t.bundle(id)); err != nil {
				return never, fmt.Errorf("discard the failed restore of %s: %w", name, err)
			}
		}
	}
	for _, name := range t.containers {
		if l := t.parking.lot(t.podUID, name); l != nil {
			t.parking.drop(l)
		}
	}
	t.treeGone = true
	if h := m.Status.Handover; h != nil && h.State == v1alpha1.HandoverAborted || t.report.State == v1alpha1.TargetRestored || ran {
		return now, nil // it is not for a failure of the restore that it was removed
	}
	t.restoreFailed = true
	if t.report.Failure == nil {
		msg := "the restore ended without a word; see restore.log in the agent's work directory"
		if len(msgs) > 0 {
			msg = strings.Join(msgs, "; ")
		}
		t.report.Failure = &v1alpha1.Failure{Reason: v1alpha1.ReasonRestoreFailed, Message: msg}
	}
	failpoint.At("target-discarded")
	return now, nil
}

// revert takes the commit back: nothing of the restored tree is left.
func (t *targetSession) revert(ctx context.Context, m *v1alpha1.Migration) error {
	f := t.report.Failure
	if f == nil {
		f = &v1alpha1.Failure{Reason: v1alpha1.ReasonRestoreFailed, Message: "the restore failed"}
		t.report.Failure = f
	}
	failures.WithLabelValues(string(roleTarget), f.Reason).Inc()
	if err := t.takeBack(ctx, *f); err != nil && !errors.Is(err, errRegisterTaken) {
		return err
	}
	failpoint.At("target-taken-back")
	t.committed = false
	t.event(m, evTakenBack, f.Message)
	t.report.State = v1alpha1.TargetReverted
	if err := t.publish(ctx); err != nil {
		return err
	}
	return t.syncRegisterState(ctx, v1alpha1.HandoverAborted)
}

// syncRegisterState waits until the cache shows the register's new state.
func (t *targetSession) syncRegisterState(ctx context.Context, want v1alpha1.HandoverState) error {
	for ctx.Err() == nil {
		m, err := t.get(ctx, t.Client)
		if err != nil || m.Status.Handover != nil && m.Status.Handover.State == want {
			return err
		}
		t.await(ctx, again(time.Second))
	}
	return ctx.Err()
}

func trimScheme(id string) string {
	if _, bare, ok := strings.Cut(id, "://"); ok {
		return bare
	}
	return id
}
