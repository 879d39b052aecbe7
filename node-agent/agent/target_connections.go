// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/migration"
)

// Connections that are kept end with the first reset. The source's network is cut off
// from before its freeze; from before its end, when the new pod's network may be made at
// any moment, this node holds the address.

// holdAddresses keeps this node from answering the pod's peers, from before the commit:
// the source is frozen then, and nobody talks to it.
func (t *targetSession) holdAddresses(ctx context.Context, m *v1alpha1.Migration) error {
	addresses, err := migration.HeldAddresses(m)
	if err != nil || addresses == nil {
		return err
	}
	if err := t.Node.Holder.Hold(ctx, string(t.uid), addresses); err != nil {
		return err
	}
	t.holding, t.lifted = true, false
	return nil
}

// liftHold lets peers talk to the pod, which answers them itself.
func (t *targetSession) liftHold(ctx context.Context) error {
	t.lifted = true
	if !t.holding {
		return nil
	}
	if err := t.Node.Holder.Lift(ctx, string(t.uid)); err != nil {
		return err
	}
	t.holding = false
	return nil
}

// followHold holds the addresses, or lifts the hold, as the migration wants it: also
// what an agent has left that is gone, and in a node that has restarted.
func (t *targetSession) followHold(ctx context.Context, m *v1alpha1.Migration) error {
	if !migration.KeepsConnections(m) {
		return nil
	}
	var handover v1alpha1.HandoverState
	if h := m.Status.Handover; h != nil {
		handover = h.State
	} else if t.committed {
		handover = v1alpha1.HandoverCommitted
	}
	wanted := migration.HoldsAddresses(m, handover, t.report.State)
	switch {
	case wanted && t.letGoAlready():
		return t.liftHold(ctx)
	case wanted && !t.holding && !t.lifted:
		return t.holdAddresses(ctx, m)
	case !wanted && (t.holding || !t.lifted):
		t.holding = true // perhaps, by another agent
		return t.liftHold(ctx)
	}
	return nil
}

// letGoAlready: the wrapper has told that the pod's only container was restored, and so
// runs.
func (t *targetSession) letGoAlready() bool {
	if len(t.containers) != 1 || !t.holding {
		return false
	}
	l := t.parking.lot(t.podUID, t.containers[0])
	if l == nil {
		return false
	}
	_, _, _, res := l.state()
	return res != nil && res.Error == ""
}

// keeping says whether the connections are to be restored.
func (t *targetSession) keeping() bool {
	r := t.report.Connections
	return r != nil && r.State != v1alpha1.ConnectionsClosed
}

// judgeConnections finds out whether they can be, when a restore is about to begin.
func (t *targetSession) judgeConnections(m *v1alpha1.Migration, pod *corev1.Pod) error {
	if !migration.KeepsConnections(m) {
		return nil
	}
	if len(pod.Status.PodIPs) == 0 {
		return errors.New("the pod's address is not known yet")
	}
	before := t.report.Connections
	t.report.Connections = migration.JudgeConnections(m, pod, t.report.FailedRestores)
	if r := t.report.Connections; !t.keeping() && (before == nil || *before != *r) {
		t.event(m, evConnectionsClosed, r.Message)
	}
	return nil
}

// connectionsKept reports that they have been.
func (t *targetSession) connectionsKept(m *v1alpha1.Migration) {
	if !t.keeping() {
		return
	}
	t.report.Connections = &v1alpha1.ConnectionsReport{State: v1alpha1.ConnectionsKept}
	t.event(m, evConnectionsKept, strings.Join(m.Status.Connections.Addresses, ", "))
}

// sweepAddresses lifts what is held for migrations that do not need it any more.
func (s *sweeper) sweepAddresses(ctx context.Context) error {
	if s.Node.Holder == nil {
		return nil
	}
	held, err := s.Node.Holder.Held(ctx)
	if len(held) == 0 {
		return err
	}
	known, kerr := s.known(ctx)
	if kerr != nil {
		return errors.Join(err, kerr)
	}
	errs := []error{err}
	for _, h := range held {
		uid := types.UID(h)
		if s.has(uid, roleTarget) || s.stillHeld(known[uid]) {
			continue
		}
		if err := s.Node.Holder.Lift(ctx, h); err != nil {
			errs = append(errs, fmt.Errorf("migration %s: %w", uid, err))
			continue
		}
		orphansRemoved.WithLabelValues("address").Inc()
	}
	return errors.Join(errs...)
}

// stillHeld says whether a Migration, nil when it is gone, needs addresses held here: its
// session may have yet to begin.
func (s *sweeper) stillHeld(m *v1alpha1.Migration) bool {
	if m == nil || m.Status.Handover == nil || m.Status.Target == nil || m.Status.Target.NodeName != s.NodeName {
		return false
	}
	return migration.HoldsAddresses(m, m.Status.Handover.State, m.Status.Target.State)
}
