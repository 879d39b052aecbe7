// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"slices"
	"time"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/wire"
	"godwit.dev/godwit/node-agent/runtime"
)

// The containers of a pod with several are restored one after the other, for kubelet
// creates the next one only when the create and the start of the one before have
// returned. So that none of them finds another missing, each stands still after its
// restore, and has not run: all can be discarded as if the restore had failed. When
// the last one is there they are marked, and then let go.

// settleInterval is how often a container is looked at that was restored and that
// containerd is about to have: nothing tells of it, and the pod waits for it.
const settleInterval = 20 * time.Millisecond

// several says whether the pod's containers have to wait for each other.
func (t *targetSession) several() bool { return len(t.containers) > 1 }

// letGo lets all containers of the pod run. It is repeated when an agent has gone away
// in the middle of it.
func (t *targetSession) letGo(ctx context.Context) error {
	// The commit may be given up while the containers are restored one by one: for a
	// node that was lost, or because a person has decided.
	live, err := t.get(ctx, t.Live)
	if err != nil {
		return err
	}
	if h := live.Status.Handover; h == nil || h.State != v1alpha1.HandoverCommitted {
		return t.syncRegisterState(ctx, v1alpha1.HandoverAborted)
	}
	found := make([]runtime.Container, 0, len(t.containers))
	for _, name := range t.containers {
		id, err := t.restoredID(name)
		if err != nil {
			return err
		}
		c, err := t.Node.Finder.Container(ctx, id)
		if err != nil {
			return fmt.Errorf("let %s go: %w", name, err)
		}
		found = append(found, c)
	}
	at := t.Now()
	for i, name := range t.containers {
		if err := wire.LetGo(t.RunDir, t.podUID, name, found[i].ID, at); err != nil {
			return fmt.Errorf("let %s go: %w", name, err)
		}
	}
	if err := t.liftHold(ctx); err != nil {
		return err
	}
	for i, name := range t.containers {
		if err := t.Node.Freezer.Thaw(ctx, found[i]); err != nil {
			return fmt.Errorf("let %s go: %w", name, err)
		}
	}
	t.log.Info("let all containers go", "containers", len(found), "took", t.Now().Sub(at))
	return nil
}

// restoredID is the id of the container that was restored, whether it stands still or
// was let go.
func (t *targetSession) restoredID(name string) (string, error) {
	holds, err := wire.Holds(t.RunDir, t.podUID, name)
	if err != nil {
		return "", err
	}
	mark, found, err := wire.Mark(t.RunDir, t.podUID, name)
	if err != nil {
		return "", err
	}
	if i := slices.IndexFunc(holds, func(h wire.HoldState) bool { return h.Frozen }); i >= 0 && !found {
		mark, found = holds[i], true
	}
	if !found {
		return "", fmt.Errorf("container %s was not restored: %w", name, runtime.ErrNotFound)
	}
	return mark.ContainerID, nil
}

// anyRestored says whether a container of the pod was restored: it stands still, or runs.
func (t *targetSession) anyRestored() bool {
	return slices.ContainsFunc(t.containers, func(name string) bool {
		return t.consumed(t.podUID, name) || t.stoodStill(t.podUID, name)
	})
}

// stoodStill says whether a container was restored and never let go. Kubelet may have
// seen it run all the same.
func (a *Agent) stoodStill(podUID, container string) bool {
	holds, err := wire.Holds(a.RunDir, podUID, container)
	return err != nil || slices.ContainsFunc(holds, func(h wire.HoldState) bool { return h.Frozen })
}
