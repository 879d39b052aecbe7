// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	modeDir  = 0o700
	modeFile = 0o600
	// holdsDir/<pod UID>/<container>/<container id> are the holds,
	// restoredDir/<pod UID>/<container> the marks of containers that were restored.
	holdsDir    = "creates"
	restoredDir = "restored"
	// unnamed ends the name of a hold that is not locked yet. No id contains it.
	unnamed = "~"
	// maxHold is the largest hold that is read, in bytes.
	maxHold = 64 << 10
	// maxError is how much of an error is kept, in bytes.
	maxError = 8 << 10
)

// ErrHeld: a wrapper, or the runc it has started, still lives. Wait for its end.
var ErrHeld = errors.New("a create is under way")

// Hold is the file by which a create shows an agent, also one that was not there
// when it began, whether it can still restore. The wrapper takes it before it
// asks, and locks it; the runc that restores inherits the lock. While it is
// locked, a restore may begin or go on. Once it is not, it says what became of
// the create. It goes when nothing was ordered, and becomes the container's mark
// in one step before what was restored can run (see MarkRun).
type Hold struct {
	f              *os.File
	path, restored string
	ordered        bool
}

// HoldState is what a hold says. Its file is a line of JSON for each change.
type HoldState struct {
	ContainerID string `json:"containerID,omitempty"`
	Bundle      string `json:"bundle,omitempty"`
	// Ordered: the wrapper was told to restore, and may have begun.
	Ordered bool `json:"ordered,omitempty"`
	// Error says why the restore failed, "" when nobody was left to say it.
	Error string `json:"error,omitempty"`
	// Cleared: it was seen that no process of the restore is left.
	Cleared bool `json:"cleared,omitempty"`
	// Frozen: the restore is complete, its processes have not run, and they stand
	// still until LetGo.
	Frozen bool `json:"frozen,omitempty"`
	// LetGo: the processes were complete, and were about to run; of frozen ones also
	// when that was.
	LetGo   bool       `json:"letGo,omitempty"`
	LetGoAt *time.Time `json:"letGoAt,omitempty"`
	// Result of a complete restore.
	Result *Result `json:"result,omitempty"`
	// Confirmed: the target owns the pod for good, see Confirm.
	Confirmed bool `json:"confirmed,omitempty"`
	// Alive: the wrapper or its runc still lives.
	Alive bool `json:"-"`
}

// takeTries bounds how often a hold is made anew because an agent has swept its
// directory, empty until then, away under it.
const takeTries = 5

// TakeHold makes and locks the hold of a create. Nothing else may hold a
// container of this id.
func TakeHold(runDir string, req *Request) (*Hold, error) {
	h, err := takeHold(runDir, req)
	for try := 1; try < takeTries && errors.Is(err, fs.ErrNotExist); try++ {
		h, err = takeHold(runDir, req)
	}
	return h, err
}

func takeHold(runDir string, req *Request) (*Hold, error) {
	h := &Hold{
		path:     filepath.Join(runDir, holdsDir, req.PodUID, req.ContainerName, req.ContainerID),
		restored: restoredPath(runDir, req.PodUID, req.ContainerName),
	}
	// The mark's directory is made now, so that the restore's end needs no space.
	if err := errors.Join(os.MkdirAll(filepath.Dir(h.path), modeDir), os.MkdirAll(filepath.Dir(h.restored), modeDir)); err != nil {
		return nil, fmt.Errorf("hold: %w", err)
	}
	// It gets its name once it is locked: an agent never sees it otherwise.
	temp := h.path + unnamed
	f, err := os.OpenFile(temp, os.O_CREATE|os.O_TRUNC|os.O_RDWR|os.O_APPEND, modeFile)
	if err != nil {
		return nil, fmt.Errorf("hold: %w", err)
	}
	h.f = f
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		err = h.add(&HoldState{ContainerID: req.ContainerID, Bundle: req.Bundle})
	}
	if err == nil {
		err = os.Rename(temp, h.path)
	}
	if err != nil {
		_ = os.Remove(temp)
		_ = f.Close()
		return nil, fmt.Errorf("hold: %w", err)
	}
	return h, nil
}

// File is what whoever carries the restore on has to inherit.
func (h *Hold) File() *os.File { return h.f }

// Path is where the hold is, until MarkRun brings it to MarkPath.
func (h *Hold) Path() string { return h.path }

// MarkPath is where the mark of the container is, or will be.
func (h *Hold) MarkPath() string { return h.restored }

// Ordered notes that a restore was ordered. It comes before anything is begun.
func (h *Hold) Ordered() error {
	err := h.add(&HoldState{Ordered: true})
	h.ordered = h.ordered || err == nil
	return err
}

// Failed notes how the restore ended, and whether it was seen that nothing of it
// is left.
func (h *Hold) Failed(cause error, cleared bool) error {
	msg := cause.Error()
	return h.add(&HoldState{Error: msg[:min(len(msg), maxError)], Cleared: cleared})
}

// Restored notes that the container was restored and runs.
func (h *Hold) Restored(res *Result) error {
	if err := MarkRun(h.path, h.restored); err != nil {
		return err
	}
	return h.add(&HoldState{Result: res})
}

// Release ends the hold. Unless a restore was ordered nothing of it stays.
func (h *Hold) Release() error {
	defer h.f.Close()
	if h.ordered {
		return nil
	}
	if err := os.Remove(h.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("hold: %w", err)
	}
	return nil
}

func (h *Hold) add(s *HoldState) error { return addTo(h.f, s) }

func addTo(f *os.File, s *HoldState) error {
	line, err := json.Marshal(s)
	if err == nil {
		_, err = f.Write(append(line, '\n'))
	}
	if err != nil {
		return fmt.Errorf("hold: %w", err)
	}
	return nil
}

// MarkCleared notes in the hold at path, or the mark it has become, whose wrapper
// was killed, that it was seen that nothing of the restore is left. One that is
// gone needs no note.
func MarkCleared(path, markPath string) error {
	for _, p := range []string{path, markPath} {
		f, err := os.OpenFile(p, os.O_WRONLY|os.O_APPEND|unix.O_NOFOLLOW, 0)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("hold: %w", err)
		}
		return errors.Join(addTo(f, &HoldState{Cleared: true}), f.Close())
	}
	return nil
}

// AwaitRelease waits until nothing holds the hold at path, or the mark it has
// become, any more: ErrHeld when that takes longer than timeout. Without one
// nothing is waited for.
func AwaitRelease(path, markPath string, timeout time.Duration) error {
	deadline := time.Now().Add(timeout)
	// The kernel tells of a lock's end only who blocks in it without a limit.
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		s, err := readHold(path)
		if errors.Is(err, fs.ErrNotExist) {
			s, err = readHold(markPath)
		}
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case !s.Alive:
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("hold %s: %w", path, ErrHeld)
		}
		<-tick.C
	}
}

// Holds lists the holds of a container. Who wants to know as well whether it was
// restored looks for the mark afterwards: a hold becomes the mark in one step,
// so it is seen as one of the two.
func Holds(runDir, podUID, container string) ([]HoldState, error) {
	dir := filepath.Join(runDir, holdsDir, podUID, container)
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("holds: %w", err)
	}
	var found []HoldState
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), unnamed) {
			continue
		}
		s, err := readHold(filepath.Join(dir, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		s.ContainerID = e.Name()
		found = append(found, s)
	}
	return found, nil
}

// RemoveEnded removes the holds of a container that nothing holds any more: what they
// say of restores is forgotten. Those of creates that wait stay.
func RemoveEnded(runDir, podUID, container string) error {
	holds, err := Holds(runDir, podUID, container)
	if err != nil {
		return err
	}
	for _, s := range holds {
		if s.Alive {
			continue
		}
		err := os.Remove(filepath.Join(runDir, holdsDir, podUID, container, s.ContainerID))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("hold: %w", err)
		}
	}
	return nil
}

// RemoveHolds removes the holds of a pod that nothing holds any more: ErrHeld
// when one is still held.
func RemoveHolds(runDir, podUID string) error {
	dir := filepath.Join(runDir, holdsDir, podUID)
	containers, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("holds: %w", err)
	}
	for _, c := range containers {
		holds, err := Holds(runDir, podUID, c.Name())
		if err != nil {
			return err
		}
		for _, s := range holds {
			if s.Alive {
				return fmt.Errorf("%s of pod %s: %w", c.Name(), podUID, ErrHeld)
			}
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("holds: %w", err)
	}
	return nil
}

// Pods lists the UIDs of the pods that have holds or marks.
func Pods(runDir string) ([]string, error) {
	var uids []string
	for _, dir := range []string{holdsDir, restoredDir} {
		entries, err := os.ReadDir(filepath.Join(runDir, dir))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("holds: %w", err)
		}
		for _, e := range entries {
			if !slices.Contains(uids, e.Name()) {
				uids = append(uids, e.Name())
			}
		}
	}
	return uids, nil
}

// RemovePod removes the holds and the marks of a pod that is gone: ErrHeld when a
// create of it is still under way.
func RemovePod(runDir, podUID string) error {
	if err := RemoveHolds(runDir, podUID); err != nil {
		return err
	}
	if err := os.RemoveAll(filepath.Join(runDir, restoredDir, podUID)); err != nil {
		return fmt.Errorf("restored mark: %w", err)
	}
	return nil
}

// Restored says whether the container's image set was used, and how the restore
// went, as far as the mark tells: the Result may be nil.
func Restored(runDir, podUID, container string) (*Result, bool, error) {
	s, found, err := Mark(runDir, podUID, container)
	return s.Result, found, err
}

func restoredPath(runDir, podUID, container string) string {
	return filepath.Join(runDir, restoredDir, podUID, container)
}

// readHold reads a hold and looks whether it is held.
func readHold(path string) (HoldState, error) {
	var s HoldState
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return s, err
	}
	defer f.Close()
	// Lock first: what is read after the end of the last holder is complete.
	switch err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB); {
	case errors.Is(err, unix.EWOULDBLOCK):
		s.Alive = true
	case err != nil:
		return s, fmt.Errorf("hold %s: %w", path, err)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxHold))
	if err != nil {
		return s, fmt.Errorf("hold %s: %w", path, err)
	}
	s.decode(data)
	return s, nil
}

// decode applies the lines of a hold. What cannot be understood counts as an
// order: it may have been one.
func (s *HoldState) decode(data []byte) {
	for line := range bytes.Lines(data) {
		next := *s
		if err := json.Unmarshal(line, &next); err != nil {
			s.Ordered = true
			continue
		}
		next.Ordered = next.Ordered || s.Ordered
		next.Cleared = next.Cleared || s.Cleared
		next.LetGo = next.LetGo || s.LetGo
		next.Confirmed = next.Confirmed || s.Confirmed
		*s = next
	}
}
