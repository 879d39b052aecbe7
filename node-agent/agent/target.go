// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/failpoint"
	"godwit.dev/godwit/internal/migration"
	"godwit.dev/godwit/internal/wire"
	"godwit.dev/godwit/node-agent/images"
)

// targetSession is the loop on the node the pod goes to.
type targetSession struct {
	sessionBase

	// report is ahead of the cache, as on the source.
	report v1alpha1.TargetReport
	loaded bool
	// nodeUID of this node's Node object, as of when the session began.
	nodeUID types.UID
	// committed: this session's own commit was accepted; the cache may not show
	// it yet.
	committed bool
	// podUID of the target pod; containers of its spec, in order.
	podUID     string
	containers []string
	// witness of the freeze's beginning, by this node's clock.
	witness migration.FreezeWitness
	// restoreFailed is final for this session: an image set is restored once.
	// treeGone: nothing of the failed restore is left, seen by discard.
	restoreFailed, treeGone bool
	// filesAt is where files were unpacked, by owner; see place.
	filesAt map[string]*place
	// manifest of the set, once it was verified.
	manifest *images.Manifest
	// progress is when the last container was restored that stands still; settling:
	// containerd is about to have one.
	progress time.Time
	settling bool
	// holding: this node holds the pod's addresses, as far as this session knows. lifted:
	// it need not any more for what is restored now.
	holding, lifted bool
}

func (t *targetSession) run(ctx context.Context) { t.loop(ctx, t.step) }

func (t *targetSession) step(ctx context.Context) (again, bool, error) {
	m, err := t.get(ctx, t.Client)
	if errors.Is(err, errGone) {
		t.giveBack(v1alpha1.ReasonCancelled, "the migration was deleted")
		if err := t.liftHold(ctx); err != nil {
			return never, false, err
		}
		return never, true, t.removeWork()
	}
	if err != nil {
		return never, false, err
	}
	if !t.loaded {
		live, err := t.lookBeforeFreeze(ctx)
		if err != nil {
			return never, false, err
		}
		if live.Status.Target != nil {
			if live.Status.Target.PodUID != m.Status.Target.PodUID {
				// The cache of an agent that was restarted is behind: what is reported is
				// about another pod than it names.
				return again(time.Second), false, nil
			}
			t.report = live.Status.Target.TargetReport
		}
		// Once: a machine that comes back under another Node has restarted its
		// agent as well.
		var node corev1.Node
		if err := t.Live.Get(ctx, client.ObjectKey{Name: t.NodeName}, &node); err != nil {
			return never, false, fmt.Errorf("read the Node: %w", err)
		}
		t.loaded, t.nodeUID = true, node.UID
	}
	if uid := string(m.Status.Target.PodUID); uid != t.podUID && t.turnTo(uid) {
		if err := t.publish(ctx); err != nil {
			t.loaded = false
			return never, false, err
		}
		return now, false, nil
	}
	t.see(m)
	pod, err := t.pod(ctx, m.Status.Target.PodRef)
	if err != nil {
		return never, false, err
	}
	t.containers = containerNames(m, pod)
	if err := t.followHold(ctx, m); err != nil {
		return never, false, err
	}
	o := t.observe(ctx, m, pod)
	action := migration.DecideTarget(o)
	t.log.V(2).Info("decided", "action", action, "phase", m.Status.Phase, "state", t.report.State, "parked", o.Parked)
	if action == migration.TargetIdle {
		if targetOwns(m) && o.Handover == v1alpha1.HandoverCommitted {
			// From here on a crash restarts the pod as it does any other, also while no
			// agent is there to be asked.
			if err := wire.Confirm(t.RunDir, t.podUID); err != nil {
				return never, false, err
			}
		}
		if t.report.State == v1alpha1.TargetRestored && migration.Finished(m.Status.Phase) {
			if err := t.removeWork(); err != nil {
				return never, true, err
			}
			if m.Status.Phase == v1alpha1.PhaseSucceeded {
				t.learn(&m.Status)
			}
			return never, true, nil
		}
		if t.settling && o.Handover == v1alpha1.HandoverCommitted {
			return again(settleInterval), false, nil
		}
		if o.Restoring && o.Handover != "" && t.report.State != v1alpha1.TargetCleaned {
			return again(holdInterval), false, nil
		}
		if t.report.State == v1alpha1.TargetRestored && !targetOwns(m) && t.report.TreeGoneAt == nil {
			return again(confirmInterval), false, nil
		}
		return t.nextLook(), !targetNeeded(m) || t.report.State == v1alpha1.TargetCleaned, nil
	}
	next, err := t.act(ctx, m, pod, action)
	return next, false, err
}

// containerNames are the containers of the pod that are restored, in the order in
// which kubelet creates them, known from the source's report also when the pod is gone.
func containerNames(m *v1alpha1.Migration, pod *corev1.Pod) []string {
	var names []string
	if pod != nil {
		for _, c := range migration.Containers(pod) {
			names = append(names, c.Name)
		}
		return names
	}
	if m.Status.Source != nil {
		for _, c := range m.Status.Source.Containers {
			names = append(names, c.Name)
		}
	}
	return names
}

// nextLook is when a deadline has to be looked at although nothing changed.
func (t *targetSession) nextLook() again {
	next := never
	for _, name := range t.containers {
		l := t.parking.lot(t.podUID, name)
		if l == nil {
			continue
		}
		left := t.Timeouts.Park - t.Now().Sub(l.since) + time.Millisecond
		if next == never || again(left) < next {
			next = again(max(left, time.Millisecond))
		}
	}
	return next
}

func (t *targetSession) act(ctx context.Context, m *v1alpha1.Migration, pod *corev1.Pod, action migration.TargetAction) (again, error) {
	switch action {
	case migration.TargetVerifyRound:
		return now, t.verifyRound(ctx, m, pod)
	case migration.TargetOpenGate:
		if m.Status.Phase == v1alpha1.PhaseReplacing {
			return never, t.openSuccessor(ctx, m, pod)
		}
		return never, t.openGate(ctx, m, pod)
	case migration.TargetReport:
		return now, t.reportSeen(ctx, m, pod)
	case migration.TargetGiveBack:
		if o := t.observe(ctx, m, pod); o.NodeChanged {
			t.giveBack(v1alpha1.ReasonTargetNodeLost, "the Node was made anew")
			return now, t.fail(ctx, m, v1alpha1.ReasonTargetNodeLost,
				fmt.Errorf("Node %s was deleted and made anew after the target pod was placed on it; try again", t.NodeName))
		}
		t.giveBack(v1alpha1.ReasonParkTimeout, "parked too long")
		return now, t.fail(ctx, m, v1alpha1.ReasonParkTimeout,
			fmt.Errorf("the source was not ready within %s of the target; it goes on, try again", t.Timeouts.Park))
	case migration.TargetPrepare:
		return now, t.prepareRestore(ctx)
	case migration.TargetReportPrepared:
		t.report.PreparedAt = microTime(t.Now())
		return now, t.publish(ctx)
	case migration.TargetCommit:
		return now, t.commitAndRestore(ctx, m, pod)
	case migration.TargetRestore:
		return t.restore(ctx, m, pod)
	case migration.TargetLetGo:
		return now, t.letGo(ctx)
	case migration.TargetDiscard:
		return t.discard(ctx, m)
	case migration.TargetRetry:
		return now, t.retry(ctx, m)
	case migration.TargetReportGone:
		return now, t.reportGone(ctx)
	case migration.TargetTakeBack:
		return now, t.revert(ctx, m)
	case migration.TargetClean:
		return now, t.clean(ctx)
	}
	return never, fmt.Errorf("unknown action %q", action)
}

// mergeLag is by how many finished rounds the target may be behind and merge them still,
// once its gate is open; before, the source waits for it.
const mergeLag = 2

// verifyRound reads one finished round through: it is checked, and its pages are in the
// node's memory when the restore wants them. The files that were packed in it are unpacked.
func (t *targetSession) verifyRound(ctx context.Context, m *v1alpha1.Migration, pod *corev1.Pod) error {
	set, err := t.set()
	if err != nil {
		return err
	}
	k := int(t.report.VerifiedRounds)
	containers := m.Status.Source.Containers
	_, err = reading(ctx, t, m.Spec.PreCopy.RoundTimeout.Duration, fmt.Sprintf("read round %d", k), func(ctx context.Context) (struct{}, error) {
		for _, c := range containers {
			if err := set.VerifyRound(ctx, c.Name, k); err != nil {
				return struct{}{}, fmt.Errorf("%s: %w", c.Name, err)
			}
		}
		return struct{}{}, nil
	})
	if err != nil {
		return t.failReading(ctx, m, err)
	}
	failpoint.At("target-verified-round")
	t.report.VerifiedRounds++
	if gateID(pod) != "" || len(t.parking.ofPod(t.podUID)) > 0 {
		if err := t.unpackRounds(ctx, m, pod); err != nil {
			return t.failUnpacking(ctx, m, err)
		}
	}
	if behind := *m.Status.Source.Round - t.report.VerifiedRounds; !migration.GateClosed(t.report.State) && behind >= mergeLag {
		// The freeze waits for what is verified, and for nothing else.
		for _, c := range containers {
			if err := set.StopMerging(c.Name, fmt.Errorf("the target was %d rounds behind after %d", behind, t.report.VerifiedRounds)); err != nil {
				t.log.Error(err, "stop merging", "container", c.Name)
			}
		}
	}
	return t.publish(ctx)
}

// openGate ends the gate, so that kubelet goes on to create the containers.
func (t *targetSession) openGate(ctx context.Context, m *v1alpha1.Migration, pod *corev1.Pod) error {
	// Before kubelet mounts parts of the volumes into the containers (subPath).
	if err := t.unpackRounds(ctx, m, pod); err != nil {
		return t.failUnpacking(ctx, m, err)
	}
	err := t.endGate(ctx, pod)
	if errors.Is(err, errSignalGate) {
		return t.fail(ctx, m, v1alpha1.ReasonGateFailed, err)
	}
	if err != nil {
		return err
	}
	failpoint.At("target-gate-opened")
	t.report.State = v1alpha1.TargetReleased
	return t.publish(ctx)
}

// reportSeen publishes what the node shows.
func (t *targetSession) reportSeen(ctx context.Context, m *v1alpha1.Migration, pod *corev1.Pod) error {
	o := t.observe(ctx, m, pod)
	switch {
	case o.Handover == v1alpha1.HandoverCommitted && o.Restored:
		return t.reportRestored(ctx, m)
	case o.Parked:
		if _, err := t.lookBeforeFreeze(ctx); err != nil {
			return err
		}
		// The source is not frozen before this is reported.
		if err := t.unpackRounds(ctx, m, pod); err != nil {
			return t.failUnpacking(ctx, m, err)
		}
		t.report.State, t.report.BootID = v1alpha1.TargetParked, t.BootID
		failpoint.At("target-parked")
		for _, name := range t.containers {
			l := t.parking.lot(t.podUID, name)
			if l == nil {
				continue
			}
			c := t.container(name)
			c.ContainerID, c.ParkedAt = l.req.ContainerID, microTime(l.since)
		}
		if err := t.publish(ctx); err != nil {
			// Nothing may be committed on the strength of what is not stored.
			t.loaded = false
			return err
		}
		t.event(m, evParked)
		return nil
	case t.report.State == v1alpha1.TargetParked:
		// A create was given up; kubelet tries again.
		t.report.State, t.report.PreparedAt = v1alpha1.TargetReleased, nil
	case o.GateRunning:
		t.report.State = v1alpha1.TargetGated
	}
	return t.publish(ctx)
}

// giveBack fails every create of this pod that still waits.
func (t *targetSession) giveBack(reason, message string) {
	for _, l := range t.parking.ofPod(t.podUID) {
		l.fail(reason, message)
	}
}

// fail reports that the target gives up before the commit.
func (t *targetSession) fail(ctx context.Context, m *v1alpha1.Migration, reason string, cause error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	t.log.Error(cause, "giving up", "reason", reason)
	failures.WithLabelValues(string(roleTarget), reason).Inc()
	countRefusal(cause)
	t.report.State = v1alpha1.TargetFailed
	t.report.Failure = &v1alpha1.Failure{Reason: reason, Message: cause.Error()}
	t.event(m, evFailed, reason, cause.Error())
	return t.publish(ctx)
}

// clean removes the node's traces after a rollback.
func (t *targetSession) clean(ctx context.Context) error {
	t.giveBack(v1alpha1.ReasonCancelled, "the migration was rolled back")
	if err := t.removeWork(); err != nil {
		return err
	}
	if err := wire.RemoveHolds(t.RunDir, t.podUID); err != nil && !errors.Is(err, wire.ErrHeld) {
		return err // one that is held still is swept later
	}
	t.report.State = v1alpha1.TargetCleaned
	return t.publish(ctx)
}

func (t *targetSession) publish(ctx context.Context) error {
	return t.apply(ctx, "target", v1alpha1.FieldManagerTarget, &t.report)
}

func (t *targetSession) container(name string) *v1alpha1.TargetContainerStatus {
	for i := range t.report.Containers {
		if t.report.Containers[i].Name == name {
			return &t.report.Containers[i]
		}
	}
	t.report.Containers = append(t.report.Containers, v1alpha1.TargetContainerStatus{Name: name})
	return &t.report.Containers[len(t.report.Containers)-1]
}
