// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	ctrl "sigs.k8s.io/controller-runtime"
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
	// First, for a look at a mount whose server is away would not come back.
	if err := unshareVolume(target); err != nil {
		return "", err
	}
	if err := os.MkdirAll(target, 0o700); err != nil {
		return "", fmt.Errorf("share the volume: %w", err)
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
		if errors.Is(err, fs.ErrNotExist) {
			return nil // the node's first agent
		}
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

// volumeRetry is how often a volume that could not be shared is tried again.
const volumeRetry = 5 * time.Second

// errNotShared: the volume has not been made visible to the node yet.
var errNotShared = errors.New("the shared volume is not mounted on the node yet")

// Volume shares the volume with the node beside everything else that an agent
// does: one that does not answer must keep neither the socket of the runtime
// wrapper nor the recovery of frozen pods from being served.
type Volume struct {
	Source, RunDir string

	mu  sync.Mutex
	err error
	ok  bool
}

// Path is where the node sees the volume.
func (v *Volume) Path() string { return filepath.Join(v.RunDir, ImagesName) }

// Available says why the volume cannot be used yet; nil when it can.
func (v *Volume) Available() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case v.ok:
		return nil
	case v.err != nil:
		return fmt.Errorf("%w: %w", errNotShared, v.err)
	}
	return errNotShared
}

// Start shares the volume, trying again until it works or ctx ends. It
// implements manager.Runnable.
func (v *Volume) Start(ctx context.Context) error {
	p := &pending{sets: map[string]int{}}
	for {
		limited, cancel := context.WithTimeout(ctx, volumeTimeout)
		_, err := bounded(limited, p, v.Source, "share the volume", func(context.Context) (struct{}, error) {
			_, err := ShareVolume(v.Source, v.RunDir)
			v.mu.Lock()
			defer v.mu.Unlock()
			v.err, v.ok = err, err == nil
			return struct{}{}, err
		})
		cancel()
		if err == nil || ctx.Err() != nil {
			return nil //nolint:nilerr // going down is no failure of the manager
		}
		if errors.Is(err, errNoAnswer) || errors.Is(err, errStuck) {
			v.mu.Lock()
			if !v.ok {
				v.err = err
			}
			v.mu.Unlock()
		}
		ctrl.Log.WithName("volume").Error(err, "the volume cannot be used yet")
		t := time.NewTimer(volumeRetry)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-t.C:
		}
		if v.Available() == nil {
			return nil // a try that was late has worked
		}
	}
}
