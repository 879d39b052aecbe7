// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/prometheus/procfs"

	"godwit.dev/godwit/node-agent/runtime"
)

var _ runtime.Freezer = (*Control)(nil)

// Freeze freezes all tasks of the container and returns when the kernel says
// that the last one has stopped. On any failure the container is thawed.
func (c *Control) Freeze(ctx context.Context, k runtime.Container) error {
	if err := ctx.Err(); err != nil {
		return err // freezing may be quicker than a look at ctx later
	}
	r, err := c.open(k.CgroupDir)
	if err != nil {
		return asNotFound(k, err)
	}
	defer r.Close()
	if err := write(r, "cgroup.freeze", "1"); err != nil {
		return asNotFound(k, fmt.Errorf("freeze %s: %w", k.ID, err))
	}
	limited, cancel := context.WithTimeout(ctx, c.o.FreezeTimeout)
	defer cancel()
	// An empty cgroup freezes at once; but then there is nothing to migrate.
	var last events
	err = await(limited, r, func(e events) bool { last = e; return e.frozen || !e.populated })
	switch {
	case err == nil && last.populated:
		return nil
	case err == nil:
		err = fmt.Errorf("%w: %s has no processes", runtime.ErrNotFound, k.ID)
	case ctx.Err() != nil:
		err = fmt.Errorf("freeze %s: %w", k.ID, ctx.Err())
	case errors.Is(err, context.DeadlineExceeded):
		err = fmt.Errorf("freeze %s: %w after %v%s", k.ID, runtime.ErrFreezeTimeout, c.o.FreezeTimeout, stuck(r))
	}
	if terr := write(r, "cgroup.freeze", "0"); terr != nil && !gone(terr) {
		err = errors.Join(err, fmt.Errorf("thaw %s: %w", k.ID, terr))
	}
	return asNotFound(k, err)
}

// FreezePod freezes the pod's cgroup, which is the one above the container's.
func (c *Control) FreezePod(_ context.Context, k runtime.Container) error {
	return asNotFound(k, c.freezePod(k, true))
}

func (c *Control) freezePod(k runtime.Container, freeze bool) error {
	dir := filepath.Dir(filepath.Clean(k.CgroupDir))
	// A dash parts the names of slices, so systemd's have underscores in the UID.
	if k.PodUID == "" || !strings.Contains(strings.ReplaceAll(filepath.Base(dir), "_", "-"), k.PodUID) {
		return fmt.Errorf("%w: the one above that of container %s is %q, and not that of pod %s", ErrUnexpectedPath, k.Name, dir, k.PodUID)
	}
	if err := c.FreezeGroup(dir, freeze); err != nil {
		return fmt.Errorf("pod %s: %w", k.PodUID, err)
	}
	return nil
}

// Thaw lets the container's tasks go on and returns when the kernel says so.
func (c *Control) Thaw(ctx context.Context, k runtime.Container) error {
	// Where the pod cannot be held it was not.
	if err := c.freezePod(k, false); err != nil && !gone(err) && !errors.Is(err, ErrUnexpectedPath) {
		return err
	}
	r, err := c.open(k.CgroupDir)
	if err != nil {
		return asNotFound(k, err)
	}
	defer r.Close()
	if err := write(r, "cgroup.freeze", "0"); err != nil {
		return asNotFound(k, fmt.Errorf("thaw %s: %w", k.ID, err))
	}
	// The write has taken effect; only the report can be late.
	limited, cancel := context.WithTimeout(ctx, c.o.FreezeTimeout)
	defer cancel()
	if err := await(limited, r, func(e events) bool { return !e.frozen }); err != nil {
		return asNotFound(k, fmt.Errorf("thaw %s: %w", k.ID, err))
	}
	return nil
}

// Frozen reads the state from the kernel.
func (c *Control) Frozen(_ context.Context, k runtime.Container) (bool, error) {
	r, err := c.open(k.CgroupDir)
	if err != nil {
		return false, asNotFound(k, err)
	}
	defer r.Close()
	f, err := r.Open("cgroup.events")
	if err != nil {
		return false, asNotFound(k, err)
	}
	defer f.Close()
	e, err := readEvents(f)
	if err != nil {
		return false, asNotFound(k, err)
	}
	return e.frozen, nil
}

// FreezeAsked says whether the container's own cgroup has been told to freeze,
// whether or not all of its tasks have stopped yet.
func (c *Control) FreezeAsked(k runtime.Container) (bool, error) {
	r, err := c.open(k.CgroupDir)
	if err != nil {
		return false, asNotFound(k, err)
	}
	defer r.Close()
	b, err := r.ReadFile("cgroup.freeze")
	if err != nil {
		return false, asNotFound(k, err)
	}
	return strings.TrimSpace(string(b)) == "1", nil
}

// FreezeGroup freezes or thaws a cgroup and does not wait for the kernel to be done.
func (c *Control) FreezeGroup(dir string, freeze bool) error {
	r, err := c.open(dir)
	if err != nil {
		return err
	}
	defer r.Close()
	value := "0"
	if freeze {
		value = "1"
	}
	if err := write(r, "cgroup.freeze", value); err != nil {
		return fmt.Errorf("freeze cgroup %s (%s): %w", filepath.Base(dir), value, err)
	}
	return nil
}

// asNotFound turns "the cgroup is gone" into the contract's error.
func asNotFound(k runtime.Container, err error) error {
	if gone(err) {
		return fmt.Errorf("%w: cgroup of %s: %w", runtime.ErrNotFound, k.ID, err)
	}
	return err
}

// stuck names the tasks that keep a cgroup from freezing.
func stuck(r *os.Root) string {
	pids, err := processes(r)
	if err != nil {
		return ""
	}
	var names []string
	for _, pid := range pids {
		p, err := procfs.NewProc(pid)
		if err != nil {
			continue
		}
		st, err := p.Stat()
		if err != nil || st.State != "D" {
			continue
		}
		name := st.Comm + "[" + strconv.Itoa(pid) + "]"
		if w, err := p.Wchan(); err == nil && w != "" {
			name += " in " + w
		}
		names = append(names, name)
	}
	if len(names) == 0 {
		return ""
	}
	return ", uninterruptible: " + strings.Join(names, ", ")
}
