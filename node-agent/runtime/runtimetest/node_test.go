// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package runtimetest_test

import (
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/internal/wire"
	"godwit.dev/godwit/node-agent/runtime/cgroup"
	"godwit.dev/godwit/node-agent/runtime/containerd"
	"godwit.dev/godwit/node-agent/runtime/criu"
	"godwit.dev/godwit/node-agent/runtime/files"
	"godwit.dev/godwit/node-agent/runtime/host"
	"godwit.dev/godwit/node-agent/runtime/inspect"
	"godwit.dev/godwit/node-agent/runtime/network"
	"godwit.dev/godwit/node-agent/runtime/runtimetest"
)

// nodeVariable gates the tests of the real adapters. They need a node with
// containerd, runc, CRIU and a kernel that tracks dirty pages, and root.
// “make e2e RUN=TestConformance” runs them on one; by hand it goes like this:
//
//	CGO_ENABLED=0 go test -c -o runtimetest.test ./node-agent/runtime/runtimetest
//	(on the node) GODWIT_NODE_TEST=1 ./runtimetest.test -test.v -test.run TestNode
//
// GODWIT_NODE_VOLUME names a directory for the images, for instance on NFS;
// with GODWIT_NODE_KEEP=1 images and logs stay.
const nodeVariable = "GODWIT_NODE_TEST"

// TestMain turns the binary into the program that runs in the containers, when
// it is started as such.
func TestMain(m *testing.M) {
	if os.Getenv(workloadVariable) != "" {
		runWorkload()
	}
	os.Exit(m.Run())
}

func TestNode(t *testing.T) {
	if os.Getenv(nodeVariable) != "1" {
		t.Skipf("NOT RUN: the real adapters need a node; set %s=1 there", nodeVariable)
	}
	t.Cleanup(func() { removeBase(t) })
	runtimetest.Run(t, realNode)
}

// directory makes a fresh directory below one that containers may not see.
func directory(t *testing.T, parent string) string {
	t.Helper()
	if err := os.MkdirAll(parent, 0o700); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(parent, "runtimetest-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() || os.Getenv("GODWIT_NODE_KEEP") == "1" {
			t.Logf("kept for a look: %s", dir)
			return
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func realNode(t *testing.T) runtimetest.Node {
	h, err := host.New(host.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	ctrd, err := containerd.New(t.Context(), containerd.Options{Host: h})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ctrd.Close() })
	control := cgroup.New(cgroup.Options{Host: h})
	script := filepath.Join(directory(t, "/var/lib/godwit-test"), wire.ActionScriptName)
	if err := os.WriteFile(script, []byte(wire.ActionScript), 0o700); err != nil {
		t.Fatal(err)
	}
	checkpointer := criu.New(criu.Options{Host: h, Cgroup: control, ActionScript: script})
	volume := os.Getenv("GODWIT_NODE_VOLUME")
	if volume == "" {
		volume = "/var/lib/godwit-test"
	}
	n := runtimetest.Node{
		Finder: ctrd, Checkpointer: checkpointer, Freezer: control, Throttler: control, Isolator: network.New(network.Options{}),
		DirtyCounter: checkpointer, Killer: checkpointer, Files: files.New(files.Options{Host: h}),
		Inspector: inspect.New(inspect.Options{Host: h, Cgroup: control}), Prober: checkpointer,
		Volume: directory(t, volume), Work: directory(t, "/run/godwit-test"),
		Stall: func(t *testing.T, _ runtimetest.Workload, imageDir string) (<-chan struct{}, func()) {
			return stallReal(t, imageDir)
		},
		Small: small,
	}
	n.Start = func(t *testing.T) runtimetest.Workload { return startReal(t, n, h) }
	return n
}

// stallReal puts a FIFO where CRIU is about to create an image: opening it waits
// for a reader that does not come, as a volume that does not answer would. The
// image of the pages is opened while the parasite is in the tasks; where that
// was quicker, the inventory, which is written last, serves.
func stallReal(t *testing.T, imageDir string) (<-chan struct{}, func()) {
	t.Helper()
	waiting, stop := make(chan struct{}), make(chan struct{})
	fifos := []string{filepath.Join(imageDir, "pages-1.img"), filepath.Join(imageDir, "inventory.img")}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			if names, err := os.ReadDir(imageDir); err == nil && len(names) > 0 {
				break
			}
			select {
			case <-stop:
				return
			case <-time.After(100 * time.Microsecond): // the window is short
			}
		}
		for _, f := range fifos {
			if err := unix.Mkfifo(f, 0o600); err == nil {
				t.Logf("CRIU waits at %s", f)
				close(waiting)
				return
			}
		}
	}()
	var once sync.Once
	return waiting, func() {
		once.Do(func() {
			close(stop)
			<-done
			for _, f := range fifos {
				// What reads lets CRIU go on, also when it comes to open the FIFO only
				// now. As a writer too it never sees the end, and stays until the test's.
				r, err := os.OpenFile(f, os.O_RDWR|unix.O_NONBLOCK, 0)
				if err != nil {
					continue
				}
				t.Cleanup(func() { _ = r.Close() })
				go func() { _, _ = io.Copy(io.Discard, r) }()
			}
		})
	}
}

// mountTmpfs mounts a tmpfs for the test.
func mountTmpfs(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("shm", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=1777,size=64m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
		if err := os.RemoveAll(filepath.Dir(dir)); err != nil {
			t.Error(err)
		}
	})
}
