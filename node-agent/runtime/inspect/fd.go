// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package inspect

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/node-agent/runtime/memory"
)

// mqueueMagic is the file system type of POSIX message queues.
const mqueueMagic = 0x19800202

// descriptors looks at the open files of a process.
func (g *gatherer) descriptors(pid int) error {
	dir := "/proc/" + strconv.Itoa(pid) + "/fd"
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	names, err := d.Readdirnames(-1)
	if err := errors.Join(err, d.Close()); err != nil {
		return err
	}
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("open the process: %w", err)
	}
	defer unix.Close(pidfd)
	if len(names) == 0 {
		return nil // also one that has ended and was not waited for
	}
	mounts, err := mountIDs(pid)
	if err != nil {
		return err
	}
	for _, name := range names {
		fd, err := strconv.Atoi(name)
		if err != nil {
			return err
		}
		err = g.descriptor(pid, pidfd, fd, mounts)
		// EBADF, too: closed since the directory was read.
		if err != nil && !memory.Gone(err) && !errors.Is(err, unix.EBADF) {
			return fmt.Errorf("descriptor %d: %w", fd, err)
		}
	}
	return nil
}

func (g *gatherer) descriptor(pid, pidfd, fd int, mounts map[string]bool) error {
	link := fmt.Sprintf("/proc/%d/fd/%d", pid, fd)
	target, err := os.Readlink(link)
	if err != nil {
		return err
	}
	switch {
	case strings.HasPrefix(target, "socket:["):
		inode, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimPrefix(target, "socket:["), "]"), 10, 64)
		if err != nil {
			return err
		}
		if g.sockets[inode] {
			return nil
		}
		g.sockets[inode] = true
		return g.socket(pid, pidfd, fd)
	case strings.HasPrefix(target, "pipe:["):
		g.note(target)
	case target == "anon_inode:[io_uring]":
		g.in.IOUring = true
	case strings.HasPrefix(target, "anon_inode:"):
		if kind := strings.TrimPrefix(target, "anon_inode:"); !slices.Contains(dumpable, kind) {
			g.in.Descriptors = append(g.in.Descriptors, kind)
		}
	case namespaceFile.MatchString(target):
		if !ownNamespace(pid, target) {
			g.in.Descriptors = append(g.in.Descriptors, target)
		}
	case strings.HasPrefix(target, "/"):
		g.versioned(strings.TrimSuffix(target, " (deleted)"))
		if err := g.file(link, target); err != nil {
			return err
		}
		return g.mounted(pid, fd, target, mounts)
	}
	return nil
}

// file tells devices and message queues from other files. It asks for what the
// kernel knows already (AT_STATX_DONT_SYNC): a file on a dead network volume
// must not hold the inspection up.
func (g *gatherer) file(link, target string) error {
	var st unix.Statx_t
	const wanted = unix.STATX_TYPE | unix.STATX_INO | unix.STATX_NLINK | unix.STATX_BLOCKS
	if err := unix.Statx(unix.AT_FDCWD, link, unix.AT_STATX_DONT_SYNC, wanted, &st); err != nil {
		return err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFCHR:
		if !harmless(st.Rdev_major, st.Rdev_minor) {
			g.in.Devices = append(g.in.Devices, target)
		}
	case unix.S_IFBLK:
		g.in.Devices = append(g.in.Devices, target)
	case unix.S_IFREG:
		if strings.HasPrefix(target, "/memfd:") {
			g.note(fmt.Sprintf("memory %s (%d:%d)", strings.TrimSuffix(target, " (deleted)"), unix.Mkdev(st.Dev_major, st.Dev_minor), st.Ino))
		}
		g.deleted(target, &st)
		// The queue's file system shows its files at its own root, and asking
		// it never blocks; other file systems are not asked.
		if strings.Count(target, "/") == 1 {
			var fs unix.Statfs_t
			if err := unix.Statfs(link, &fs); err != nil {
				return err
			}
			g.in.MessageQueues = g.in.MessageQueues || fs.Type == mqueueMagic
		}
	}
	return nil
}

// harmless are the character devices that CRIU restores: null, zero, full,
// random, urandom, tty, ptmx and pseudo terminals.
func harmless(major, minor uint32) bool {
	switch major {
	case 1:
		return minor == 3 || minor == 5 || minor == 7 || minor == 8 || minor == 9
	case 5:
		return minor == 0 || minor == 2
	}
	return major >= 136 && major <= 143
}
