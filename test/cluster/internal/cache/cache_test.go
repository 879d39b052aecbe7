// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package cache

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func newCache(t *testing.T) *Cache {
	t.Helper()
	c, err := New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestKeySeparatesItsParts(t *testing.T) {
	if Key("ab", "c") == Key("a", "bc") {
		t.Error("moving a byte between parts left the key as it was")
	}
	if again := Key("ab", "c"); again != Key("ab", "c") {
		t.Error("the same parts gave two keys")
	}
}

func TestArtifactIsBuiltOnceByConcurrentCallers(t *testing.T) {
	c := newCache(t)
	var builds atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			dir, err := c.Artifact(t.Context(), "x", "k", func(dir string) error {
				builds.Add(1)
				return os.WriteFile(filepath.Join(dir, "f"), []byte("done"), 0o644)
			})
			if err != nil {
				t.Error(err)
				return
			}
			if got, err := os.ReadFile(filepath.Join(dir, "f")); err != nil || string(got) != "done" {
				t.Errorf("read %q, %v", got, err)
			}
		})
	}
	wg.Wait()
	if builds.Load() != 1 {
		t.Errorf("built %d times, want 1", builds.Load())
	}
}

func TestFailedBuildLeavesNoArtifact(t *testing.T) {
	c := newCache(t)
	boom := errors.New("boom")
	_, err := c.Artifact(t.Context(), "x", "k", func(dir string) error {
		if err := os.WriteFile(filepath.Join(dir, "half"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		return boom
	})
	if !errors.Is(err, boom) {
		t.Fatalf("error %v, want %v", err, boom)
	}
	if c.Has("x", "k") {
		t.Fatal("a failed build is there")
	}
	dir, err := c.Artifact(t.Context(), "x", "k", func(string) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "half")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what the failed build left is in the artifact: %v", err)
	}
}

func TestLockWaitEndsWithTheContext(t *testing.T) {
	c := newCache(t)
	held, err := c.Lock(t.Context(), "l")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := c.Lock(ctx, "l"); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("second lock: %v, want a deadline error", err)
	}
	held.Unlock()
	again, err := c.Lock(t.Context(), "l")
	if err != nil {
		t.Fatal(err)
	}
	again.Unlock()
}
