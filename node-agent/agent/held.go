// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"godwit.dev/godwit/node-agent/runtime"
)

// held is the node's own record of a pod that this agent has cut off and frozen.
// It is written before the freeze and removed after the tasks were let go, or
// are gone, so that whatever happens to the Migration and to the agent, what was
// frozen by us, and only that, is known. It lies where a reboot of the node,
// which ends the freeze too, removes it.
type held struct {
	// Namespace, Migration and UID identify the Migration, Pod and PodUID the pod.
	Namespace string    `json:"namespace"`
	Migration string    `json:"migration"`
	UID       types.UID `json:"uid"`
	Pod       string    `json:"pod"`
	PodUID    types.UID `json:"podUID"`
	// Containers as they were found before the freeze.
	Containers []runtime.Container `json:"containers"`
	// Deadline of the final dump.
	Deadline time.Time `json:"deadline"`
	// Published: the manifest's digest may have reached the API, and so a target
	// may have committed.
	Published bool `json:"published"`
}

func (a *Agent) freezes() records[held] { return records[held]{filepath.Join(a.RunDir, "held")} }

// hold writes a record.
func (a *Agent) hold(h held) error {
	if err := a.freezes().put(h.UID, h); err != nil {
		return fmt.Errorf("record the freeze: %w", err)
	}
	return nil
}

// heldBy returns the record of a migration, nil when there is none.
func (a *Agent) heldBy(uid types.UID) (*held, error) { return a.freezes().get(uid) }

// release gives the pod back what was taken from it and forgets that: nothing of
// it is held any more.
func (a *Agent) release(ctx context.Context, uid types.UID) error {
	return errors.Join(a.unthrottle(ctx, uid), a.freezes().remove(uid))
}
