// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package runtimetest_test

import (
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"godwit.dev/godwit/node-agent/runtime"
	"godwit.dev/godwit/node-agent/runtime/fake"
	"godwit.dev/godwit/node-agent/runtime/runtimetest"
)

func TestFake(t *testing.T) {
	runtimetest.Run(t, func(t *testing.T) runtimetest.Node {
		r := fake.New()
		return runtimetest.Node{
			Finder: r, Checkpointer: r, Freezer: r, Isolator: r, DirtyCounter: r, Killer: r,
			Files: r, Inspector: r, Prober: r,
			Start:  func(t *testing.T) runtimetest.Workload { return startFake(t, r) },
			Volume: t.TempDir(), Work: t.TempDir(),
		}
	})
}

func TestFakeGuard(t *testing.T) {
	r := fake.New()
	runtimetest.Guard(t, r, r.Create)
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
func (w *workload) WriteFile(_ *testing.T, n, c string) { w.c.SetFile(n, c) }

func (w *workload) ReadFile(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(w.bundle, "rootfs", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func (w *workload) Restore(t *testing.T, imageDir, filesDir string) runtimetest.Workload {
	t.Helper()
	bundle := t.TempDir()
	if err := os.Mkdir(filepath.Join(bundle, "rootfs"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := w.r.Unpack(t.Context(), filesDir, bundle); err != nil {
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
