// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"os"
	"os/exec"
	"sync"
	"testing"
)

func TestADiskIsAttachedToOneNodeAtATime(t *testing.T) {
	s := store{dir: t.TempDir()}
	for _, step := range []struct {
		do   func(id, node string) error
		what string
		node string
		want error
	}{
		{s.detach, "detach", "n1", nil},
		{s.attach, "attach", "n1", nil},
		{s.attach, "attach", "n1", nil},
		{s.attach, "attach", "n2", errElsewhere},
		{s.detach, "detach", "n2", nil},
		{s.attached, "attached", "n1", nil},
		{s.attached, "attached", "n2", errElsewhere},
		{s.detach, "detach", "n1", nil},
		{s.detach, "detach", "n1", nil},
		{s.attached, "attached", "n1", os.ErrNotExist},
		{s.attach, "attach", "n2", nil},
		{s.detach, "detach", "", nil},
		{s.attach, "attach", "n1", nil},
	} {
		if err := step.do("d", step.node); !errors.Is(err, step.want) {
			t.Errorf("%s %s: %v, want %v", step.what, step.node, err, step.want)
		}
	}
	if err := s.attach("other", "n2"); err != nil {
		t.Errorf("another disk: %v", err)
	}
	left, err := os.ReadDir(s.dir)
	if err != nil || len(left) != 2 {
		t.Errorf("%v, %v", left, err)
	}
}

func TestOneOfManyGetsTheDisk(t *testing.T) {
	s := store{dir: t.TempDir()}
	var wait sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		wait.Go(func() { errs[i] = s.attach("d", string(rune('a'+i))) })
	}
	wait.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
		} else if !errors.Is(err, errElsewhere) {
			t.Error(err)
		}
	}
	if won != 1 {
		t.Errorf("%d nodes have the disk", won)
	}
}

func TestADiskIsFormattedOnce(t *testing.T) {
	if _, err := exec.LookPath("mke2fs"); err != nil {
		t.Skip(err)
	}
	s := store{dir: t.TempDir()}
	// Cut off in the middle of being made.
	if err := os.WriteFile(s.disk("d"), make([]byte, 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	mark := []byte("not touched")
	const at = 7 << 20
	for i := range 2 {
		f, err := s.open(t.Context(), "d", 8<<20)
		if err != nil {
			t.Fatal(err)
		}
		if ok, err := isExt4(f); !ok || err != nil {
			t.Errorf("formatted: %t, %v", ok, err)
		}
		got := make([]byte, len(mark))
		if _, err := f.ReadAt(got, at); err != nil || (i == 1 && string(got) != string(mark)) {
			t.Errorf("read %q, %v", got, err)
		}
		if _, err := f.WriteAt(mark, at); err != nil {
			t.Error(err)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
}
