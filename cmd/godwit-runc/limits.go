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
)

// limitFiles are a cgroup's limits that a restore must not run into. runc puts CRIU
// into the container's cgroup: what it computes would be taken from the container's CPU
// time, so that a pod with a tenth of a processor is down ten times as long, and its
// memory from what the container may have, which may be all in use.
var limitFiles = []string{"cpu.max", "memory.high", "memory.max"}

// cgroupLimits are values of files, by their paths.
type cgroupLimits map[string]string

// limitsOf reads those limits of a cgroup that limit anything.
func limitsOf(cgroup string) (cgroupLimits, error) {
	found := cgroupLimits{}
	for _, name := range limitFiles {
		path := filepath.Join(cgroup, name)
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the controller is not there
		}
		if err != nil {
			return nil, fmt.Errorf("limits: %w", err)
		}
		if value := strings.TrimSpace(string(b)); value != "" && !strings.HasPrefix(value, "max") {
			found[path] = value
		}
	}
	return found, nil
}

// lift takes the limits away.
func (l cgroupLimits) lift() error {
	for path := range l {
		if err := os.WriteFile(path, []byte("max"), 0); err != nil {
			return fmt.Errorf("lift limits: %w", err)
		}
	}
	return nil
}

// impose puts them back. What is not there any more needs none.
func (l cgroupLimits) impose() error {
	var errs []error
	for path, value := range l {
		if err := os.WriteFile(path, []byte(value), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("put limits back: %w", err))
		}
	}
	return errors.Join(errs...)
}
