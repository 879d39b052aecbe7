// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package netspace

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestThereAndBack(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: networks")
	}
	cmd := exec.Command("sleep", "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	if err := cmd.Start(); err != nil {
		t.Skip(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	network := fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid)
	ns, err := os.Open(network)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	const own = "/proc/thread-self/ns/net"
	before, err := os.Readlink(own)
	if err != nil {
		t.Fatal(err)
	}
	failed := errors.New("failed")
	// Often enough for the process's first thread to have its turn.
	for range 100 {
		var was string
		if err := Do(int(ns.Fd()), func() error { was, err = os.Readlink(own); return errors.Join(err, failed) }); !errors.Is(err, failed) {
			t.Fatalf("what it returned is lost: %v", err)
		}
		if want, err := os.Readlink(network); err != nil || was != want {
			t.Fatalf("it was called in %s, not in %s: %v", was, want, err)
		}
	}
	for _, place := range []string{own, "/proc/self/ns/net"} {
		if after, err := os.Readlink(place); err != nil || after != before {
			t.Errorf("%s is %s, was %s: %v", place, after, before, err)
		}
	}
	if err := Do(-1, func() error { t.Error("called"); return nil }); err == nil {
		t.Error("no error without a network")
	}
}
