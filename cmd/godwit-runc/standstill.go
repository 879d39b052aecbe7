// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// standStillTries bounds how often CRIU's processes are looked for in the container's
// cgroup: it may start one while another is being moved.
const standStillTries = 10

// standStill freezes the cgroup of a container at pre-resume. There CRIU holds the
// tasks with ptrace, at the end of its own code, and all that it does with them
// afterwards are requests of ptrace, which work on frozen tasks; once it lets them go
// they meet the freeze before their first instruction. CRIU itself is in the same
// cgroup, for runc puts it there, and so is this process: they are moved home first.
func standStill(cgroup, home, initPID string) error {
	outside, err := pidNamespace("self")
	if err != nil {
		return fmt.Errorf("stand still: %w", err)
	}
	if inside, err := pidNamespace(initPID); err != nil || inside == outside {
		// Then CRIU's processes cannot be told from the container's.
		return errors.Join(fmt.Errorf("stand still: process %s is not in a namespace of its own", initPID), err)
	}
	for range standStillTries {
		left, err := processesIn(cgroup, outside)
		if err != nil {
			return fmt.Errorf("stand still: %w", err)
		}
		if len(left) == 0 {
			if err := os.WriteFile(filepath.Join(cgroup, "cgroup.freeze"), []byte("1"), 0); err != nil {
				return fmt.Errorf("stand still: %w", err)
			}
			return nil
		}
		for _, pid := range left {
			err := os.WriteFile(filepath.Join(home, "cgroup.procs"), []byte(pid), 0)
			if err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("stand still: move process %s: %w", pid, err)
			}
		}
	}
	return fmt.Errorf("stand still: processes of the node stay in %s", cgroup)
}

// processesIn are the processes of a cgroup that are in a namespace of processes.
func processesIn(cgroup, namespace string) ([]string, error) {
	data, err := os.ReadFile(filepath.Join(cgroup, "cgroup.procs"))
	if err != nil {
		return nil, err
	}
	var pids []string
	for pid := range strings.FieldsSeq(string(data)) {
		ns, err := pidNamespace(pid)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // it has ended
		}
		if err != nil {
			return nil, err
		}
		if ns == namespace {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

func pidNamespace(pid string) (string, error) {
	if _, err := strconv.Atoi(pid); err != nil && pid != "self" {
		return "", fmt.Errorf("%q is no process: %w", pid, err)
	}
	return os.Readlink("/proc/" + pid + "/ns/pid")
}

// ownCgroup is the directory of the cgroup that this process is in.
func ownCgroup(root string) (string, error) {
	data, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", fmt.Errorf("%w: %w", errCgroup, err)
	}
	for line := range strings.Lines(string(data)) {
		if path, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::"); ok {
			return filepath.Join(root, path), nil
		}
	}
	return "", fmt.Errorf("%w: this process is in none of version 2", errCgroup)
}
