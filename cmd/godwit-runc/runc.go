// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// Runtime is an OCI runtime: the real one, or the wrapper around it.
type Runtime interface {
	// Exec does what the arguments (without the program's name) say. The real
	// runtime replaces this process and returns only with an error.
	Exec(args []string) error
	// Command prepares the runtime as a child process.
	Command(args ...string) *exec.Cmd
}

// errNoRunc: the real runc is not there.
var errNoRunc = errors.New("runc not found")

// runc is the real runc.
type runc struct{ path string }

// findRunc looks for runc: what the operator named, else the first in PATH that
// is not this program under another name.
func findRunc(named, path string) (*runc, error) {
	self, err := os.Stat("/proc/self/exe")
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoRunc, err)
	}
	usable := func(p string) bool {
		fi, err := os.Stat(p)
		return err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0 && !os.SameFile(fi, self)
	}
	if named != "" {
		if !usable(named) {
			return nil, fmt.Errorf("%w: GODWIT_RUNC=%s is not it", errNoRunc, named)
		}
		return &runc{named}, nil
	}
	for _, dir := range filepath.SplitList(path) {
		if p := filepath.Join(dir, "runc"); filepath.IsAbs(dir) && usable(p) {
			return &runc{p}, nil
		}
	}
	return nil, fmt.Errorf("%w: looked in %s", errNoRunc, path)
}

// Exec replaces this process.
func (r *runc) Exec(args []string) error {
	err := syscall.Exec(r.path, append([]string{r.path}, args...), os.Environ())
	return fmt.Errorf("exec %s: %w", r.path, err)
}

// Command prepares runc as a child without the environment that would make it
// talk to systemd.
func (r *runc) Command(args ...string) *exec.Cmd {
	cmd := exec.Command(r.path, args...)
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "NOTIFY_SOCKET=") && !strings.HasPrefix(e, "CRIU_CONFIG_FILE=") {
			cmd.Env = append(cmd.Env, e)
		}
	}
	return cmd
}
