// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// errMounts: something is still mounted where a restore was killed. What lies
// below must not be removed: it may be a volume.
var errMounts = errors.New("leftover mounts")

// unmountLeftovers takes away what a runc that was killed in mid-restore has
// left mounted on the node: the container's root below its state directory
// ("criu-root"), and, for a moment, the volumes below the root file system.
// Without this "runc delete --force" would walk from the state directory through
// them and remove the volumes' content.
func unmountLeftovers(stateDir, rootfs string) error {
	const tries = 8 // a mount can hide others
	for range tries {
		found, err := mountsBelow(stateDir, rootfs)
		if err != nil || len(found) == 0 {
			return err
		}
		// Children were mounted later than their parents.
		for i := len(found) - 1; i >= 0; i-- {
			if err := unix.Unmount(found[i], unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
				return fmt.Errorf("%w: %s: %w", errMounts, found[i], err)
			}
		}
	}
	found, err := mountsBelow(stateDir, rootfs)
	if err == nil && len(found) > 0 {
		err = fmt.Errorf("%w: %s", errMounts, strings.Join(found, ", "))
	}
	return err
}

// mountsBelow lists the mount points strictly below the two directories; the
// root file system itself is a mount of containerd's.
func mountsBelow(dirs ...string) ([]string, error) {
	var real []string
	for _, d := range dirs {
		if d == "" {
			continue
		}
		if r, err := filepath.EvalSymlinks(d); err == nil {
			real = append(real, r+"/")
		}
	}
	mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		for _, d := range real {
			if strings.HasPrefix(m.Mountpoint, d) {
				return false, false
			}
		}
		return true, false
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errMounts, err)
	}
	points := make([]string, 0, len(mounts))
	for _, m := range mounts {
		points = append(points, m.Mountpoint)
	}
	return points, nil
}
