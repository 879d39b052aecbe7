// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package runtimetest_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/node-agent/runtime"
	"godwit.dev/godwit/node-agent/runtime/fake"
	"godwit.dev/godwit/node-agent/runtime/runtimetest"
)

func TestFake(t *testing.T) {
	runtimetest.Run(t, func(t *testing.T) runtimetest.Node {
		r := fake.New()
		return runtimetest.Node{
			Finder: r, Checkpointer: r, Freezer: r, Throttler: r, Isolator: r, DirtyCounter: r, Killer: r,
			Files: r, Inspector: r, Prober: r,
			Start:  func(t *testing.T) runtimetest.Workload { return startFake(t, r) },
			Volume: t.TempDir(), Work: t.TempDir(),
			Stall: func(_ *testing.T, _ runtimetest.Workload, _ string) (<-chan struct{}, func()) { return stallFake(r) },
			// The fake's images have a byte for each page of memory.
			Small: func(t *testing.T, bytes int64) string { return small(t, bytes/fake.PageSize) },
		}
	})
}

func TestFakeGuard(t *testing.T) {
	r := fake.New()
	runtimetest.Guard(t, r, r.Create)
}

// stallFake holds the next dump up until it is released.
func stallFake(r *fake.Runtime) (<-chan struct{}, func()) {
	waiting, released := make(chan struct{}), make(chan struct{})
	var once sync.Once
	r.SetHook("Dump", func(context.Context, string) error {
		r.SetHook("Dump", nil)
		close(waiting)
		<-released
		return nil
	})
	return waiting, func() { once.Do(func() { close(released) }) }
}

// small mounts a tmpfs, which takes root.
func small(t *testing.T, bytes int64) string {
	t.Helper()
	dir := t.TempDir()
	err := unix.Mount("small", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("mode=700,size=%d", bytes))
	if errors.Is(err, unix.EPERM) {
		t.Skip("NOT RUN: a file system of a given size takes the right to mount one")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// workload makes a container of the fake do its steps.
type workload struct {
	r *fake.Runtime
	c *fake.Container
	// bundle is where a restored container's root file system is, "" for one
	// that was started.
	bundle string
}

var started atomic.Int64

func startFake(t *testing.T, r *fake.Runtime) *workload {
	n := started.Add(1)
	c := r.Add(fake.ContainerOptions{
		Info: runtime.Container{
			ID: fmt.Sprintf("fake-%d", n), Name: "app", PodUID: fmt.Sprintf("pod-%d", n),
		},
		MemoryBytes: 2 * runtimetest.Memory,
	})
	return run(t, r, c)
}

func run(t *testing.T, r *fake.Runtime, c *fake.Container) *workload {
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				c.Tick()
			}
		}
	}()
	t.Cleanup(func() { close(stop); <-done })
	return &workload{r: r, c: c}
}

func (w *workload) Info() runtime.Container             { return w.c.Info() }
func (w *workload) Progress(*testing.T) uint64          { return w.c.Count() }
func (w *workload) Dirty(_ *testing.T, bytes int64)     { w.c.Write(bytes) }
func (w *workload) ThawOwn(*testing.T)                  { w.c.ThawOwn() }
func (w *workload) WriteFile(_ *testing.T, n, c string) { w.c.SetFile(n, c) }

func (w *workload) ReadFile(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(w.bundle, "rootfs", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func (w *workload) Restore(t *testing.T, imageDir string, filesDirs ...string) runtimetest.Workload {
	t.Helper()
	bundle := t.TempDir()
	if err := os.Mkdir(filepath.Join(bundle, "rootfs"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := runtimetest.Unpack(t.Context(), w.r, filesDirs, bundle); err != nil {
		t.Fatal(err)
	}
	info := w.Info()
	info.ID, info.Bundle, info.PodUID = info.ID+"-restored", bundle, info.PodUID+"-target"
	c, err := w.r.Restore(imageDir, info)
	if err != nil {
		t.Fatal(err)
	}
	restored := run(t, w.r, c)
	restored.bundle = bundle
	return restored
}
