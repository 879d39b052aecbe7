// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/moby/sys/mountinfo"

	"godwit.dev/godwit/test/cluster/internal/host"
)

// Down removes the cluster: its processes, mounts, namespace and files, and
// checks that nothing is left. Programs that were started with "exec" and still
// run are named and make it fail, unless force lets it kill them.
func (c *Cluster) Down(ctx context.Context, force bool) error {
	lock, err := c.lock(ctx)
	if err != nil {
		return err
	}
	defer lock.Unlock()
	if !c.remains() {
		c.report.Printf("cluster %s does not exist", c.Name)
		return nil
	}
	return c.report.Step("remove cluster "+c.Name, func() error { return c.remove(ctx, force) })
}

// remains tells whether anything of the cluster is there.
func (c *Cluster) remains() bool {
	for _, path := range []string{c.Dir(), c.runDir(), c.Namespace().Path(), c.Namespace().ConfigDir()} {
		if _, err := os.Lstat(path); err == nil {
			return true
		}
	}
	return false
}

func (c *Cluster) remove(ctx context.Context, force bool) error {
	if err := c.stopProcesses(ctx); err != nil {
		return err
	}
	if err := c.clearNamespace(ctx, force); err != nil {
		return err
	}
	if err := c.unmountAll(ctx); err != nil {
		return err
	}
	if err := c.waitVolumeFree(ctx); err != nil {
		return err
	}
	if err := c.deleteNetwork(ctx); err != nil {
		return err
	}
	for _, dir := range []string{c.runDir(), c.Dir()} {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return c.verifyGone()
}

// stopProcesses stops the recorded processes, all at the same time: nothing of
// what they hold is wanted any more.
func (c *Cluster) stopProcesses(ctx context.Context) error {
	s, err := c.loadState()
	if errors.Is(err, ErrNotRunning) {
		return nil
	}
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	for part, p := range s.Processes {
		wg.Go(func() {
			if err := p.Stop(ctx, syscall.SIGKILL, 20*time.Second); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, fmt.Errorf("%s: %w", part, err))
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// clearNamespace insists that no process is left inside the namespace.
func (c *Cluster) clearNamespace(ctx context.Context, force bool) error {
	ns := c.Namespace()
	if !ns.Exists() {
		return nil
	}
	left, err := ns.Processes(ctx)
	if err != nil || len(left) == 0 {
		return err
	}
	sort.Strings(left)
	if !force {
		return fmt.Errorf("still running inside the cluster's namespace: %s (end them, or use --force)", strings.Join(left, ", "))
	}
	for _, line := range left {
		number, _, _ := strings.Cut(line, " ")
		pid, err := strconv.Atoi(number)
		if err != nil {
			return err
		}
		p, err := host.FindProcess(pid)
		if err != nil {
			continue // It has ended meanwhile.
		}
		if err := p.Stop(ctx, syscall.SIGTERM, 5*time.Second); err != nil {
			return err
		}
	}
	return nil
}

// unmountAll unmounts what is mounted below the run directory on the host. The
// cluster itself mounts nothing there, but somebody may have, to have a look.
func (c *Cluster) unmountAll(ctx context.Context) error {
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(c.runDir()))
	if err != nil {
		return err
	}
	// What was mounted last may hide what was mounted before.
	for _, m := range slices.Backward(mounts) {
		if err := host.Run(ctx, "umount", m.Mountpoint); err != nil {
			return err
		}
	}
	return nil
}

// verifyGone looks for what a removed cluster must not leave.
func (c *Cluster) verifyGone() error {
	var errs []error
	if c.remains() {
		errs = append(errs, errors.New("files or the namespace are left"))
	}
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(c.runDir()))
	if err != nil {
		errs = append(errs, err)
	}
	for _, m := range mounts {
		errs = append(errs, fmt.Errorf("still mounted: %s", m.Mountpoint))
	}
	return errors.Join(errs...)
}
