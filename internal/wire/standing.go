// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Frozen notes that the container was restored, and that it stands still and has
// not run. The hold stays one: it becomes the mark when the processes are let go.
func (h *Hold) Frozen(res *Result) error { return h.add(&HoldState{Frozen: true, Result: res}) }

// Standing is a container that was restored and not let go yet.
type Standing struct {
	PodUID, Container string
	HoldState
}

// AllStanding lists the containers that were restored and stand still, of all pods.
// Those whose wrapper still lives, or of which nothing is left, are not among them.
func AllStanding(runDir string) ([]Standing, error) {
	root := filepath.Join(runDir, holdsDir)
	pods, err := os.ReadDir(root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("holds: %w", err)
	}
	var found []Standing
	for _, pod := range pods {
		containers, err := os.ReadDir(filepath.Join(root, pod.Name()))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("holds: %w", err)
		}
		for _, c := range containers {
			holds, err := Holds(runDir, pod.Name(), c.Name())
			if err != nil {
				return nil, err
			}
			for _, h := range holds {
				if h.Frozen && !h.Cleared && !h.Alive {
					found = append(found, Standing{pod.Name(), c.Name(), h})
				}
			}
		}
	}
	return found, nil
}

// Ended notes that nothing is left of a container that stood still.
func (s *Standing) Ended(runDir string) error {
	return MarkCleared(filepath.Join(runDir, holdsDir, s.PodUID, s.Container, s.ContainerID), restoredPath(runDir, s.PodUID, s.Container))
}
