// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"

	"godwit.dev/godwit/node-agent/images"
	"godwit.dev/godwit/node-agent/runtime"
	"godwit.dev/godwit/node-agent/runtime/fake"
)

// unpacksNothing fails the test when something is unpacked.
type unpacksNothing struct {
	runtime.Files
	t *testing.T
}

func (u unpacksNothing) Unpack(context.Context, runtime.Tree, io.Reader, int64) error {
	u.t.Error("it is unpacked")
	return nil
}

// Where something goes is decided by what the pod has, and not by what lies on the volume.
func TestAnArchiveOfNothingInThePodIsRefused(t *testing.T) {
	root := t.TempDir()
	store, err := images.Open(root, images.Options{})
	if err != nil {
		t.Fatal(err)
	}
	set, err := store.Set("uid")
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(root, "uid", images.Pod, images.FilesName(0))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "volume-other.tar"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	listed, err := set.VerifyFiles(t.Context(), images.Pod, 0)
	if err != nil {
		t.Fatal(err)
	}
	p := &place{owner: images.Pod, trees: []runtime.Tree{{Name: "volume-data", Dir: "/nowhere"}}}
	if err := p.unpack(t.Context(), unpacksNothing{fake.New(), t}, set, listed); runtime.RefusalOf(err) != runtime.RefusedUnlisted {
		t.Errorf("got %v", err)
	}
}

func TestFilesAreUnpackedInTheOrderInWhichTheyWerePacked(t *testing.T) {
	m := &images.Manifest{Dirs: []images.Dir{
		{Container: images.Pod, Name: "files"}, {Container: images.Pod, Name: "files-000"}, {Container: images.Pod, Name: "files-002"},
		{Container: "app", Name: "files"}, {Container: "app", Name: "files-001"}, {Container: "app", Name: "final"}, {Container: "app", Name: "round-000"},
	}}
	for owner, want := range map[string][]string{images.Pod: {"files-000", "files-002", "files"}, "app": {"files-001", "files"}, "other": nil} {
		got := filesOf(m, owner)
		if len(got) != len(want) {
			t.Errorf("%s: %+v", owner, got)
			continue
		}
		for i, d := range got {
			if d.Name != want[i] {
				t.Errorf("%s: number %d is %s, want %s", owner, i, d.Name, want[i])
			}
		}
	}
}
