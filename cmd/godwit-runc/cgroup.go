// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// errCgroup: the container's cgroup cannot be told or will not become empty.
var errCgroup = errors.New("cgroup")

// cgroupDir is the cgroup v2 directory that runc will make for the container.
func cgroupDir(root, path string, systemd bool) (string, error) {
	if path == "" {
		return "", fmt.Errorf("%w: config.json names none", errCgroup)
	}
	if !systemd {
		return filepath.Join(root, filepath.Join("/", path)), nil
	}
	parts := strings.Split(path, ":")
	if len(parts) != 3 || parts[2] == "" || strings.Contains(path, "/") {
		return "", fmt.Errorf("%w: %q is not slice:prefix:name", errCgroup, path)
	}
	slice, err := expandSlice(parts[0])
	if err != nil {
		return "", err
	}
	unit := parts[2]
	if !strings.HasSuffix(unit, ".slice") {
		unit = parts[1] + "-" + unit + ".scope"
	}
	return filepath.Join(root, slice, unit), nil
}

// expandSlice gives systemd's path of a slice: "a-b.slice" is "a.slice/a-b.slice".
func expandSlice(slice string) (string, error) {
	name, ok := strings.CutSuffix(slice, ".slice")
	if !ok {
		return "", fmt.Errorf("%w: %q is not a slice", errCgroup, slice)
	}
	if name == "-" {
		return "", nil
	}
	path, prefix := "", ""
	for part := range strings.SplitSeq(name, "-") {
		if part == "" {
			return "", fmt.Errorf("%w: %q is not a slice", errCgroup, slice)
		}
		prefix += part
		path = filepath.Join(path, prefix+".slice")
		prefix += "-"
	}
	return path, nil
}

// killCgroup ends everything in the cgroup, frozen or not, and waits until the
// kernel says that it is empty. A cgroup that is not there is empty.
func killCgroup(dir string, timeout time.Duration) error {
	err := os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENODEV):
		return nil
	case err != nil:
		return fmt.Errorf("%w: %w", errCgroup, err)
	}
	return awaitEmpty(dir, timeout)
}

// awaitEmpty waits for "populated 0".
func awaitEmpty(dir string, timeout time.Duration) error {
	f, err := os.Open(filepath.Join(dir, "cgroup.events"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errCgroup, err)
	}
	defer f.Close()
	return awaitEvent(f, "populated 0", timeout, "processes are still alive in "+dir)
}

// awaitFrozen waits until the kernel says that all processes in the cgroup stand still.
func awaitFrozen(dir string, timeout time.Duration) error {
	f, err := os.Open(filepath.Join(dir, "cgroup.events"))
	if err != nil {
		return fmt.Errorf("%w: %w", errCgroup, err)
	}
	defer f.Close()
	return awaitEvent(f, "frozen 1", timeout, "not all processes stand still in "+dir)
}

// awaitEvent waits for a line of cgroup.events; the kernel wakes a poll when it changes.
func awaitEvent(f *os.File, line string, timeout time.Duration, late string) error {
	for deadline := time.Now().Add(timeout); ; {
		is, err := readEvent(f, line)
		if err != nil || is {
			return err
		}
		left := time.Until(deadline)
		if left <= 0 {
			return fmt.Errorf("%w: %s", errCgroup, late)
		}
		fds := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLPRI}}
		if _, err := unix.Poll(fds, int(left.Milliseconds())+1); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("%w: %w", errCgroup, err)
		}
	}
}

// readEvent says whether a line is there. A cgroup that was removed meanwhile is empty.
func readEvent(f *os.File, line string) (bool, error) {
	buf := make([]byte, 256)
	n, err := unix.Pread(int(f.Fd()), buf, 0)
	switch {
	case errors.Is(err, unix.ENODEV) && line == "populated 0":
		return true, nil
	case err != nil:
		return false, fmt.Errorf("%w: %w", errCgroup, err)
	}
	return strings.Contains("\n"+string(buf[:n]), "\n"+line+"\n"), nil
}

// exists says whether the cgroup is there.
func exists(dir string) bool {
	_, err := os.Lstat(dir)
	return err == nil
}
