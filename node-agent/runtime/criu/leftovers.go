// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package criu

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// unmountLeftovers takes away what a runc that was killed in the middle of a
// restore has left mounted on the node: the container's root below its state
// directory, and for a moment the volumes below the root file system. Without
// this “runc delete --force” would walk through them and remove the volumes'
// content. The root file system itself is a mount of containerd's and stays.
func (r *Runtime) unmountLeftovers(id, bundle string) error {
	dirs := []string{path.Join(r.o.RuncRoot, id) + "/"}
	if bundle != "" {
		dirs = append(dirs, path.Join(bundle, "rootfs")+"/")
	}
	return r.o.Host.Enter(func() error {
		const tries = 8 // a mount can hide others
		for range tries {
			found, err := mountsBelow(dirs)
			if err != nil || len(found) == 0 {
				return err
			}
			// Children were mounted later than their parents.
			for _, point := range slices.Backward(found) {
				if err := unix.Unmount(point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
					return fmt.Errorf("unmount %s: %w", point, err)
				}
			}
		}
		return fmt.Errorf("mounts below %s do not go away", strings.Join(dirs, " and "))
	})
}

// mountsBelow lists the mount points strictly below the directories, in the
// mount namespace of the calling thread.
func mountsBelow(dirs []string) ([]string, error) {
	f, err := os.Open("/proc/thread-self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	mounts, err := mountinfo.GetMountsFromReader(f, func(m *mountinfo.Info) (skip, stop bool) {
		return !slices.ContainsFunc(dirs, func(d string) bool { return strings.HasPrefix(m.Mountpoint, d) }), false
	})
	if err != nil {
		return nil, fmt.Errorf("read the node's mounts: %w", err)
	}
	points := make([]string, len(mounts))
	for i, m := range mounts {
		points[i] = m.Mountpoint
	}
	return points, nil
}
