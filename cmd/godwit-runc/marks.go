// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"godwit.dev/godwit/internal/wire"
)

// Three marks on the node remember what a later call of the wrapper must know,
// besides the hold (see wire.Hold), which is the agent's:
//
//   - <runc root>/<id>/godwit-restored: this container was restored and runs;
//     start has nothing to do. It goes with the container's state.
//   - <run dir>/restored/<pod UID>/<container>: the images were used, and what was
//     restored has run, or may have (see mark). Once the agent has noted in it that
//     the target owns the pod, a container that crashes while the agent is away
//     may start from its image. The agent removes it when the pod is gone.
//   - <run dir>/restoring/<id>: a restore is under way. If it is found by a
//     delete, the wrapper was killed in the middle.
const (
	restoredMark = "godwit-restored"
	restoringDir = "restoring"
	maxMark      = 64 << 10
	modeDir      = 0o700
	modeMark     = 0o600
)

// initProcess names a process for good.
type initProcess struct {
	PID int `json:"pid"`
	// StartTime in clock ticks after boot, which tells a process from a later
	// one with the same id; 0 when it had ended already.
	StartTime uint64 `json:"startTime"`
}

// restoring is the record of a restore under way: what it takes to clear away.
type restoring struct {
	Cgroup   string `json:"cgroup"`
	StateDir string `json:"stateDir"`
	Rootfs   string `json:"rootfs"`
	// ReadonlyRoot: the container's root file system is read-only.
	ReadonlyRoot bool `json:"readonlyRoot,omitempty"`
	// PodLimits are those of the pod's cgroup, which are lifted for the restore.
	PodLimits cgroupLimits `json:"podLimits,omitempty"`
	// Hold is the create's hold, which is told when all is cleared away, and Mark
	// what it becomes.
	Hold string `json:"hold"`
	Mark string `json:"mark"`
}

// confirmed says whether the container was restored, and its source is out of the
// game.
func (w *wrapper) confirmed(id identity) (bool, error) {
	mark, _, err := wire.Mark(w.runDir, id.podUID, id.container)
	return mark.Confirmed, err
}

func (w *wrapper) restoringPath(id string) string {
	return filepath.Join(w.runDir, restoringDir, id)
}

// writeMark writes v so that the mark is there whole or not at all.
func writeMark(path string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("mark: %w", err)
	}
	if err := os.WriteFile(path+".tmp", data, modeMark); err != nil {
		return fmt.Errorf("mark: %w", err)
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		return fmt.Errorf("mark: %w", err)
	}
	return nil
}

// writeMarkIn is writeMark in a directory that may have to be made.
func writeMarkIn(path string, v any) error {
	if err := os.MkdirAll(filepath.Dir(path), modeDir); err != nil {
		return fmt.Errorf("mark: %w", err)
	}
	return writeMark(path, v)
}

// readMark reads a mark into v; found is false when there is none.
func readMark(path string, v any) (found bool, err error) {
	fi, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err == nil && (!fi.Mode().IsRegular() || fi.Size() > maxMark) {
		err = fmt.Errorf("%s: unexpected size or type", path)
	}
	if err != nil {
		return false, fmt.Errorf("mark: %w", err)
	}
	data, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(data, v)
	}
	if err != nil {
		return false, fmt.Errorf("mark %s: %w", path, err)
	}
	return true, nil
}
