// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// The mark of a container is its hold under another name: it has, or may have, run
// what was restored. It gets that name before whatever holds the processes still
// could lose them, and keeps it until the pod is gone, unless the restore was given
// up by who had them in hand (see Hold.Withdraw).

// Mark reads the mark of a container; found is false when there is none.
func Mark(runDir, podUID, container string) (s HoldState, found bool, err error) {
	s, err = readHold(restoredPath(runDir, podUID, container))
	if errors.Is(err, fs.ErrNotExist) {
		return HoldState{}, false, nil
	}
	if err != nil {
		return s, false, fmt.Errorf("restored mark: %w", err)
	}
	return s, true, nil
}

// MarkRun turns the hold at path into the mark at markPath: from here on the
// container may have run. Repeating it is harmless.
func MarkRun(path, markPath string) error {
	err := os.Rename(path, markPath)
	if errors.Is(err, fs.ErrNotExist) {
		if _, serr := os.Lstat(markPath); serr == nil {
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("hold: %w", err)
	}
	return nil
}

// NoteLetGo notes in the mark that the processes are about to run.
func NoteLetGo(markPath string) error {
	f, err := os.OpenFile(markPath, os.O_WRONLY|os.O_APPEND|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fmt.Errorf("mark: %w", err)
	}
	return errors.Join(addTo(f, &HoldState{LetGo: true}), f.Close())
}

// LetGo turns the hold of a container that was restored and stands still into its
// mark, before it is thawed: from here on it may have run. Repeating it is harmless.
func LetGo(runDir, podUID, container, containerID string, at time.Time) error {
	path := filepath.Join(runDir, holdsDir, podUID, container, containerID)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|unix.O_NOFOLLOW, 0)
	if err == nil {
		// One that is noted and not renamed is a hold still, and nothing has run.
		err = errors.Join(addTo(f, &HoldState{LetGo: true, LetGoAt: &at}), f.Close())
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("let go: %w", err)
	}
	return MarkRun(path, restoredPath(runDir, podUID, container))
}

// Withdraw makes the mark a hold again, if the processes were not let go. It is for
// a restore that ended in order: who held the processes has ended them. Without a
// mark there is nothing to withdraw.
func (h *Hold) Withdraw() error {
	s, err := readHold(h.restored)
	if errors.Is(err, fs.ErrNotExist) || err == nil && s.LetGo {
		return nil
	}
	if err == nil {
		err = os.Rename(h.restored, h.path)
	}
	if err != nil {
		return fmt.Errorf("withdraw the mark: %w", err)
	}
	return nil
}

// Confirm notes in the marks of a pod that its source is out of the game: its
// containers may start afresh from their images, as any others, also while no
// agent is there to be asked.
func Confirm(runDir, podUID string) error {
	dir := filepath.Join(runDir, restoredDir, podUID)
	marks, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("confirm: %w", err)
	}
	for _, m := range marks {
		path := filepath.Join(dir, m.Name())
		s, err := readHold(path)
		if err != nil {
			return fmt.Errorf("confirm: %w", err)
		}
		if s.Confirmed {
			continue
		}
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|unix.O_NOFOLLOW, 0)
		if err != nil {
			return fmt.Errorf("confirm: %w", err)
		}
		if err := errors.Join(addTo(f, &HoldState{Confirmed: true}), f.Close()); err != nil {
			return err
		}
	}
	return nil
}
