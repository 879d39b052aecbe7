// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// ImagesName is the name of the volume's mount point in the run directory.
const ImagesName = "images"

// ShareVolume makes the volume, mounted at source in the agent's container,
// visible to the node as <runDir>/images: criu and runc run in the node's mount
// namespace. runDir must be a mount of the node with bidirectional propagation.
// A mount that an earlier agent left is replaced: it may belong to a volume
// mount that kubelet has taken down. It returns the common path.
func ShareVolume(source, runDir string) (string, error) {
	target := filepath.Join(runDir, ImagesName)
	if err := os.MkdirAll(target, 0o700); err != nil {
		return "", fmt.Errorf("share the volume: %w", err)
	}
	if err := unshareVolume(target); err != nil {
		return "", err
	}
	if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
		return "", fmt.Errorf("share the volume: bind %s to %s: %w", source, target, err)
	}
	return target, nil
}

// UnshareVolume undoes ShareVolume.
func UnshareVolume(runDir string) error {
	return unshareVolume(filepath.Join(runDir, ImagesName))
}

// unshareVolume removes every mount at target, however many are stacked.
func unshareVolume(target string) error {
	const most = 16
	for range most {
		mounted, err := mountinfo.Mounted(target)
		if err != nil {
			return fmt.Errorf("share the volume: %w", err)
		}
		if !mounted {
			return nil
		}
		// Lazily: a dump that an earlier agent started may still write there.
		if err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("share the volume: unmount %s: %w", target, err)
		}
	}
	return fmt.Errorf("share the volume: more than %d mounts at %s", most, target)
}
