// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// here is a Host of the namespaces that the test runs in; on a machine without a
// unified hierarchy it needs a mount namespace with one at /sys/fs/cgroup. The
// commands' cgroup stays behind: another test may be using it.
func here(t *testing.T) *Host {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: namespaces and cgroups")
	}
	h, err := New(Options{InitPID: os.Getpid(), CgroupName: "godwit-test"})
	if err != nil {
		t.Skipf("no node to work on: %v", err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

func TestRun(t *testing.T) {
	h := here(t)
	out, err := h.Run(t.Context(), Command{
		Args: []string{"sh", "-c", `echo "$GREETING $(cat)"; pwd; cat /proc/self/cgroup; ls /proc/self/fd | wc -l`},
		Env:  []string{"GREETING=hello"}, Dir: "/usr", Stdin: []byte("world"),
	})
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if lines[0] != "hello world" || lines[1] != "/usr" || !slices.Contains(lines, "0::/godwit-test") {
		t.Errorf("got %q", lines)
	}
}

func TestRunFails(t *testing.T) {
	h := here(t)
	_, err := h.Run(t.Context(), Command{Args: []string{"sh", "-c", "echo out; echo why >&2; exit 3"}})
	e, ok := errors.AsType[*ExitError](err)
	if !ok || e.Code != 3 || e.Stderr != "why\n" || e.Stdout != "out\n" {
		t.Fatalf("got %#v", err)
	}
	_, err = h.Run(t.Context(), Command{Args: []string{"sh", "-c", "kill -TERM $$"}})
	if e, ok := errors.AsType[*ExitError](err); !ok || e.Signal != unix.SIGTERM || e.Code != -1 {
		t.Fatalf("got %#v", err)
	}
	if _, err = h.Run(t.Context(), Command{Args: []string{"no-such-command"}}); err == nil {
		t.Fatal("a command that does not exist ran")
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	h := here(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	start := time.Now()
	// The child of the shell would hold a pipe open, if there were one.
	_, err := h.Run(ctx, Command{Args: []string{"sh", "-c", "sleep 60 & sleep 60"}})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if e, ok := errors.AsType[*ExitError](err); !ok || e.Signal != unix.SIGKILL {
		t.Errorf("got %#v", err)
	}
	if d := time.Since(start); d > 30*time.Second {
		t.Errorf("took %v", d)
	}
}

func TestEnterLeavesOtherThreadsAlone(t *testing.T) {
	h := here(t)
	before, err := os.Readlink("/proc/thread-self/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	node, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	err = h.Enter(func() error {
		in, err := os.Readlink("/proc/thread-self/ns/mnt")
		if err == nil && in != node {
			err = fmt.Errorf("in %s, not %s", in, node)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	for range 100 {
		if now, err := os.Readlink("/proc/thread-self/ns/mnt"); err != nil || now != before {
			t.Fatalf("in %s, not %s (%v)", now, before, err)
		}
	}
}

func TestFiles(t *testing.T) {
	h := here(t)
	dir := t.TempDir()
	d, err := h.MkdirAll(filepath.Join(dir, "a/b"), 0o700)
	if err != nil {
		t.Fatal(err)
	}
	d.Close()
	name := filepath.Join(dir, "a/b/file")
	for _, content := range []string{"first, longer", "second"} {
		if err := h.WriteFile(name, []byte(content), 0o640); err != nil {
			t.Fatal(err)
		}
		if b, err := h.ReadFile(name); err != nil || string(b) != content {
			t.Errorf("got %q, %v", b, err)
		}
	}
	if fi, err := os.Stat(name); err != nil || fi.Mode() != 0o640 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
	if entries, err := os.ReadDir(filepath.Dir(name)); err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
	for range 2 {
		if err := h.Remove(name); err != nil {
			t.Error(err)
		}
	}
	if err := h.Remove(filepath.Join(dir, "no/such")); err != nil {
		t.Error(err)
	}
	if _, err := h.ReadFile(name); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

// What is written goes beneath what is mounted below.
func TestOpenAlone(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: namespaces and mounts")
	}
	slash, err := os.OpenFile("/", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	h := &Host{init: os.Getpid(), root: slash}
	defer h.Close()
	dir := t.TempDir()
	below := filepath.Join(dir, "volume")
	if err := os.Mkdir(below, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", below, "tmpfs", 0, ""); err != nil {
		t.Skipf("cannot mount here: %v", err)
	}
	defer func() {
		if err := unix.Unmount(below, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(filepath.Join(below, "file")); err != nil {
			t.Errorf("nothing is beneath the mount: %v", err)
		}
	}()
	alone, err := h.OpenAlone(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer alone.Close()
	root, err := os.OpenRoot(FDPath(alone))
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := root.WriteFile("volume/file", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(below, "file")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it was written into the volume: %v", err)
	}
	if _, err := h.OpenAlone(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

// TestAbsoluteLinksStayOnTheNode runs with a "node" whose root is a directory.
func TestAbsoluteLinksStayOnTheNode(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{"etc/real": "of the node", "data/file": "data"} {
		full := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{"link": "/etc/real", "dir": "/data", "up": "../../../../etc/real"} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	h := &Host{init: 1, root: root}
	defer h.Close()
	for name, want := range map[string]string{"/link": "of the node", "/dir/file": "data", "/up": "of the node"} {
		if b, err := h.ReadFile(name); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	d, err := h.MkdirAll("/dir/new/deep", 0o700)
	if err != nil {
		t.Fatal(err)
	}
	d.Close()
	if _, err := os.Stat(filepath.Join(dir, "data/new/deep")); err != nil {
		t.Error(err)
	}
}
