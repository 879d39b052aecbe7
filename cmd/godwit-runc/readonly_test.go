// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/moby/sys/mountinfo"
)

func TestOnlyTheRootOfTheContainerBecomesReadOnly(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("NOT RUN: needs root, for a mount namespace")
	}
	cmd := exec.CommandContext(t.Context(), "sleep", "60")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	if err := cmd.Start(); err != nil {
		t.Skipf("NOT RUN: needs a mount namespace: %v", err)
	}
	defer func() { _ = cmd.Wait() }()
	defer func() { _ = cmd.Process.Kill() }()
	readOnly := func(pid int) map[string]bool {
		f, err := os.Open(fmt.Sprintf("/proc/%d/mountinfo", pid))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		mounts, err := mountinfo.GetMountsFromReader(f, nil)
		if err != nil {
			t.Fatal(err)
		}
		found := map[string]bool{}
		for _, m := range mounts {
			found[m.Mountpoint] = len(m.Options) >= 2 && m.Options[:2] == "ro"
		}
		return found
	}
	before := readOnly(cmd.Process.Pid)
	if err := closeRoot(cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	after := readOnly(cmd.Process.Pid)
	if !after["/"] {
		t.Error("its root is not read-only")
	}
	for point, ro := range before {
		if point != "/" && after[point] != ro {
			t.Errorf("%s is read-only: %t, was %t", point, after[point], ro)
		}
	}
	if readOnly(os.Getpid())["/"] && !before["/"] {
		t.Error("so is our own")
	}
	if err := closeRoot(1 << 30); err == nil {
		t.Error("no error for a process that is not there")
	}
}
