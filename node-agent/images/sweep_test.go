// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package images

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestSweepRemovesOnlyOrphanedSets(t *testing.T) {
	ctx := context.Background()
	root, state := t.TempDir(), t.TempDir()
	store := newStore(t, root, state)
	dumpSet(t, newSet(t, store, testUID))
	dumpSet(t, newSet(t, store, otherUID))
	must(t, os.Mkdir(filepath.Join(root, "lost+found"), 0o700))
	write(t, root, "README", []byte("not a set"))

	swept, err := store.Sweep(ctx, func(uid string) bool { return uid == testUID })
	must(t, err)
	if !slices.Equal(swept, []string{otherUID}) {
		t.Errorf("swept %v", swept)
	}
	for name, want := range map[string]bool{testUID: true, otherUID: false, "lost+found": true, "README": true} {
		if _, err := os.Lstat(filepath.Join(root, name)); (err == nil) != want {
			t.Errorf("%s is there: %v, want %v", name, err == nil, want)
		}
	}
	if _, err := os.Stat(filepath.Join(state, otherUID)); err == nil {
		t.Error("what was remembered of a swept set is still there")
	}
	if _, err := os.Stat(filepath.Join(state, testUID)); err != nil {
		t.Errorf("what was remembered of a kept set: %v", err)
	}
}

func TestRemoveMayBeRepeated(t *testing.T) {
	ctx := context.Background()
	set := newSet(t, newStore(t, t.TempDir(), ""), testUID)
	dumpSet(t, set)
	for range 2 {
		must(t, set.Remove(ctx))
	}
	if _, err := os.Lstat(set.Dir()); err == nil {
		t.Error("the set is still there")
	}
	// The same handle serves a new beginning.
	dumpSet(t, set)
	if _, err := set.Seal(ctx); err != nil {
		t.Error(err)
	}
}

func TestFree(t *testing.T) {
	n, err := newStore(t, t.TempDir(), "").Free()
	if err != nil || n <= 0 {
		t.Errorf("Free = %d, %v", n, err)
	}
}

func TestFullVolumeIsTyped(t *testing.T) {
	f, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip("no /dev/full here")
	}
	defer f.Close()
	_, err = f.WriteString("x")
	if got := wrap("a/b", err); !isErr(got, ErrNoSpace) {
		t.Errorf("%v became %v", err, got)
	}
}
