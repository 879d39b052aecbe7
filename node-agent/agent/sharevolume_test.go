// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// The first agent of a node finds no mount point, later ones find the mounts of
// those before.
func TestVolumeIsSharedOnAFreshNode(t *testing.T) {
	runDir, source := t.TempDir(), t.TempDir()
	if err := UnshareVolume(runDir); err != nil {
		t.Errorf("nothing to undo: %v", err)
	}
	if err := unix.Mount("tmpfs", runDir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("cannot mount here: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(runDir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if err := os.WriteFile(filepath.Join(source, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		target, err := ShareVolume(source, runDir)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(target, "file")); err != nil {
			t.Error(err)
		}
	}
	if err := UnshareVolume(runDir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(runDir, ImagesName, "file")); !os.IsNotExist(err) {
		t.Errorf("still shared: %v", err)
	}
}
