// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"godwit.dev/godwit/internal/wire"
)

// clear removes everything a failed restore may have left of a container. It
// returns nil only after it has seen that no process is left in the cgroup and
// that runc knows nothing of the container. Repeating it is harmless.
func (w *wrapper) clear(c command, id string, rec *restoring) error {
	if err := killCgroup(rec.Cgroup, w.limits.cleanup); err != nil {
		return err
	}
	if err := unmountLeftovers(rec.StateDir, rec.Rootfs); err != nil {
		return err
	}
	if exists(rec.StateDir) {
		if err := w.deleteState(c, id); err != nil {
			return err
		}
		if exists(rec.StateDir) {
			return fmt.Errorf("%s is still there", rec.StateDir)
		}
	}
	if err := awaitEmpty(rec.Cgroup, w.limits.cleanup); err != nil {
		return err
	}
	removeCgroup(c, rec.Cgroup)
	rec.imposePodLimits(c)
	return nil
}

// imposePodLimits gives the pod its limits back. Whether anything is left of the restore,
// and so whether the source may go on, does not depend on them.
func (rec *restoring) imposePodLimits(c command) {
	if err := rec.PodLimits.impose(); err != nil {
		_ = c.logWarning(err.Error())
	}
}

// removeCgroup removes an empty cgroup that runc, having no state, cannot know
// of. systemd may do so at the same time with a scope of its own.
func removeCgroup(c command, dir string) {
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		// It holds nothing that runs: untidy, but no reason to fail.
		_ = c.logWarning(err.Error())
	}
}

// deleteState lets runc remove what it knows of the container. Its output does
// not belong into the container's log.
func (w *wrapper) deleteState(c command, id string) error {
	cmd := w.runc.Command(append(append([]string{}, c.globals...), "delete", "--force", id)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("runc delete: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), w.limits.cleanup)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	defer stop()
	cmd.WaitDelay = time.Second
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("runc delete: %w", err)
	}
	return nil
}

func (w *wrapper) dropRecord(id string) error {
	if err := os.Remove(w.restoringPath(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("mark: %w", err)
	}
	return nil
}

// beforeDelete clears away what is left when the wrapper was killed in the
// middle of a restore, before runc removes the container's state directory.
func (w *wrapper) beforeDelete(c command) error {
	id := onlyID(c.rest)
	if id == "" {
		return nil
	}
	rec := &restoring{}
	found, err := readMark(w.restoringPath(id), rec)
	if err != nil || !found {
		return err
	}
	rec.imposePodLimits(c)
	// Marked as restored, and the hold has become the agent's mark: only the
	// record was not taken away in time.
	if !exists(filepath.Join(rec.StateDir, restoredMark)) || exists(rec.Hold) {
		// runc dies with the wrapper, but a moment later.
		if err := wire.AwaitRelease(rec.Hold, rec.Mark, w.limits.cleanup); err != nil {
			return err
		}
		if err := killCgroup(rec.Cgroup, w.limits.cleanup); err != nil {
			return err
		}
		if err := unmountLeftovers(rec.StateDir, rec.Rootfs); err != nil {
			return err
		}
		removeCgroup(c, rec.Cgroup)
		// The bundle goes next, and with it the agent's way to the cgroup.
		if err := wire.MarkCleared(rec.Hold, rec.Mark); err != nil {
			return err
		}
	}
	return w.dropRecord(id)
}
