// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
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

func (a *Agent) heldPath(uid types.UID) string {
	return filepath.Join(a.RunDir, "held", string(uid)+".json")
}

// hold writes a record so that it is there whole or not at all.
func (a *Agent) hold(h held) error {
	if err := writeRecord(a.heldPath(h.UID), h); err != nil {
		return fmt.Errorf("record the freeze: %w", err)
	}
	return nil
}

// writeRecord writes a value so that the file has the old or the new one.
func writeRecord(path string, v any) error {
	b, err := json.Marshal(v)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(path), 0o700)
	}
	if err == nil {
		err = os.WriteFile(path+".tmp", b, 0o600)
	}
	if err == nil {
		err = os.Rename(path+".tmp", path)
	}
	return err
}

// heldBy returns the record of a migration, nil when there is none.
func (a *Agent) heldBy(uid types.UID) (*held, error) {
	b, err := os.ReadFile(a.heldPath(uid))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	h := &held{}
	if err == nil {
		err = json.Unmarshal(b, h)
	}
	if err != nil {
		return nil, fmt.Errorf("read the record of the freeze: %w", err)
	}
	return h, nil
}

// allHeld returns the records of the node.
func (a *Agent) allHeld() ([]*held, error) {
	names, err := filepath.Glob(filepath.Join(a.RunDir, "held", "*.json"))
	if err != nil {
		return nil, err
	}
	var all []*held
	var errs []error
	for _, n := range names {
		uid := types.UID(filepath.Base(n)[:len(filepath.Base(n))-len(".json")])
		h, err := a.heldBy(uid)
		if err != nil {
			errs = append(errs, err)
		} else if h != nil {
			all = append(all, h)
		}
	}
	return all, errors.Join(errs...)
}

// release removes a record: nothing of the pod is held any more.
func (a *Agent) release(uid types.UID) error {
	if err := os.Remove(a.heldPath(uid)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget the freeze: %w", err)
	}
	return nil
}
