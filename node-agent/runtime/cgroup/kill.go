// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/node-agent/runtime"
)

// Signal sends a signal to the container's init process. ErrNotFound when that
// process is gone, also when another one has got its number since.
func (c *Control) Signal(_ context.Context, k runtime.Container, sig int) error {
	if k.PID <= 1 {
		return fmt.Errorf("%w: %s has no process", runtime.ErrNotFound, k.ID)
	}
	fd, err := unix.PidfdOpen(k.PID, 0)
	if err != nil {
		return fmt.Errorf("%w: process %d of %s: %w", runtime.ErrNotFound, k.PID, k.ID, err)
	}
	defer unix.Close(fd)
	// The descriptor pins the process; now see that it is the container's.
	pids, err := c.Processes(k.CgroupDir)
	if err != nil {
		return err
	}
	if !slices.Contains(pids, k.PID) {
		return fmt.Errorf("%w: process %d is not in the cgroup of %s", runtime.ErrNotFound, k.PID, k.ID)
	}
	if err := unix.PidfdSendSignal(fd, unix.Signal(sig), nil, 0); err != nil {
		if errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("%w: process %d of %s", runtime.ErrNotFound, k.PID, k.ID)
		}
		return fmt.Errorf("signal process %d of %s: %w", k.PID, k.ID, err)
	}
	return nil
}

// Kill kills all tasks of the container and returns when none is left.
func (c *Control) Kill(ctx context.Context, k runtime.Container) error {
	return c.KillAll(ctx, k.CgroupDir)
}

// KillAll kills every process in a cgroup directory and below at once, frozen
// or not, forks included, and returns when the kernel says that none is left.
// A cgroup that is gone is not an error.
func (c *Control) KillAll(ctx context.Context, dir string) error {
	r, err := c.open(dir)
	if gone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer r.Close()
	// A process that enters the cgroup after the kill (CRIU forks into it while
	// it restores) would survive: kill again as long as somebody is there. Each
	// turn waits for what the one before has killed.
	deadline := time.Now().Add(c.o.KillTimeout)
	for {
		if err := write(r, "cgroup.kill", "1"); err != nil {
			if gone(err) {
				return nil
			}
			return fmt.Errorf("kill cgroup %s: %w", filepath.Base(dir), err)
		}
		// A cgroup that stays frozen without processes is "paused" for runc,
		// which then refuses to delete the container. The write above has queued
		// SIGKILL for every task, so thawing lets none of them run.
		if err := write(r, "cgroup.freeze", "0"); err != nil && !gone(err) {
			return fmt.Errorf("thaw cgroup %s: %w", filepath.Base(dir), err)
		}
		turn, cancel := context.WithDeadline(ctx, earlier(deadline, time.Now().Add(time.Second)))
		err := await(turn, r, func(e events) bool { return !e.populated })
		cancel()
		switch {
		case err == nil, gone(err):
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("kill cgroup %s: %w", filepath.Base(dir), ctx.Err())
		case !errors.Is(err, context.DeadlineExceeded):
			return fmt.Errorf("kill cgroup %s: %w", filepath.Base(dir), err)
		case !time.Now().Before(deadline):
			pids, _ := processes(r)
			return fmt.Errorf("kill cgroup %s: processes %v are left after %v", filepath.Base(dir), pids, c.o.KillTimeout)
		}
	}
}

// AwaitEmpty returns when no process is left in a cgroup directory and below, or
// it is gone; the error of ctx when that ends before.
func (c *Control) AwaitEmpty(ctx context.Context, dir string) error {
	r, err := c.open(dir)
	if gone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer r.Close()
	err = await(ctx, r, func(e events) bool { return !e.populated })
	if gone(err) {
		return nil
	}
	return err
}

// Empty says whether no process is left in a cgroup directory and below, or it
// is gone.
func (c *Control) Empty(dir string) (bool, error) {
	r, err := c.open(dir)
	if gone(err) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	defer r.Close()
	f, err := r.Open("cgroup.events")
	if err == nil {
		defer f.Close()
		var e events
		if e, err = readEvents(f); err == nil {
			return !e.populated, nil
		}
	}
	if gone(err) {
		return true, nil
	}
	return false, err
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
