// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/internal/thread"
)

// closeRoot makes the root file system of a restored container read-only, as its
// configuration says (readOnlyRootFilesystem). runc does so as its last step when it
// creates a container; when it restores one nobody does: CRIU takes the root as it is given.
// To be called while the processes stand still. Nothing is open for writing there: where
// they come from it was read-only, too.
func closeRoot(pid int) error {
	if err := thread.Do(func() error { return closeRootOf(pid) }); err != nil {
		return fmt.Errorf("make the root file system read-only: %w", err)
	}
	return nil
}

func closeRootOf(pid int) error {
	ns, err := os.Open("/proc/" + strconv.Itoa(pid) + "/ns/mnt")
	if err != nil {
		return err
	}
	defer ns.Close()
	// A thread that shares its root directory with others cannot enter.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return err
	}
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNS); err != nil {
		return err
	}
	return unix.MountSetattr(unix.AT_FDCWD, "/", 0, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
}
