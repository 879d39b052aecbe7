// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// node mounts disks on the node that it runs on.
type node struct {
	csi.UnimplementedNodeServer
	store store
	name  string
	// mu: one thing at a time.
	mu sync.Mutex
}

func (n *node) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{NodeId: n.name}, nil
}

func (n *node) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	return &csi.NodeGetCapabilitiesResponse{Capabilities: []*csi.NodeServiceCapability{{Type: &csi.NodeServiceCapability_Rpc{
		Rpc: &csi.NodeServiceCapability_RPC{Type: csi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME},
	}}}}, nil
}

// NodeStageVolume mounts the disk once for all pods of the node.
func (n *node) NodeStageVolume(ctx context.Context, r *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := valid(r.GetVolumeId(), r.GetVolumeCapability()); err != nil {
		return nil, err
	}
	return &csi.NodeStageVolumeResponse{}, coded(n.stage(ctx, r.GetVolumeId(), r.GetStagingTargetPath(), r.GetVolumeContext()))
}

func (n *node) stage(ctx context.Context, id, at string, attributes map[string]string) error {
	if mounted, err := mountPoint(at); mounted || err != nil {
		return err
	}
	size, err := sizeOf(attributes)
	if err != nil {
		return err
	}
	// Kubernetes asks for it when the disk is attached. If that were ever wrong, the
	// disk would be destroyed.
	if err := n.store.attached(id, n.name); err != nil {
		return err
	}
	disk, err := n.store.open(ctx, id, size)
	if err != nil {
		return err
	}
	defer func() { _ = disk.Close() }()
	device, err := loopDevice(disk)
	if err != nil {
		return err
	}
	// The device goes when the last who uses it does: now, if mounting fails.
	defer func() { _ = device.Close() }()
	if err := os.MkdirAll(at, 0o755); err != nil {
		return err
	}
	// Nothing is to be written in the background while others measure.
	if err := unix.Mount(device.Name(), at, "ext4", unix.MS_NOATIME, "noinit_itable"); err != nil {
		return fmt.Errorf("mount %s at %s: %w", device.Name(), at, err)
	}
	return nil
}

// NodeUnstageVolume returns once the file server has all that was written.
func (n *node) NodeUnstageVolume(ctx context.Context, r *csi.NodeUnstageVolumeRequest) (*csi.NodeUnstageVolumeResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := validID(r.GetVolumeId()); err != nil {
		return nil, err
	}
	return &csi.NodeUnstageVolumeResponse{}, coded(n.unstage(ctx, r.GetVolumeId(), r.GetStagingTargetPath()))
}

func (n *node) unstage(ctx context.Context, id, at string) error {
	if err := unmount(at); err != nil {
		return err
	}
	// A mount that somebody has kept in a mount namespace of their own still writes.
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		used, err := loopDeviceOf(n.store.disk(id))
		if err != nil {
			return err
		}
		if used == "" {
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%s of disk %s is still in use", used, id)
		}
	}
	f, err := os.OpenFile(n.store.disk(id), os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// NodePublishVolume shows a pod the disk.
func (n *node) NodePublishVolume(_ context.Context, r *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := valid(r.GetVolumeId(), r.GetVolumeCapability()); err != nil {
		return nil, err
	}
	return &csi.NodePublishVolumeResponse{}, coded(publish(r.GetStagingTargetPath(), r.GetTargetPath(), r.GetReadonly()))
}

func publish(staged, at string, readOnly bool) error {
	if mounted, err := mountPoint(at); mounted || err != nil {
		return err
	}
	if mounted, err := mountPoint(staged); err != nil || !mounted {
		return errors.Join(err, fmt.Errorf("nothing is mounted at %s", staged))
	}
	if err := os.MkdirAll(at, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(staged, at, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s to %s: %w", staged, at, err)
	}
	if !readOnly {
		return nil
	}
	if err := unix.Mount("", at, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|unix.MS_NOATIME, ""); err != nil {
		return errors.Join(fmt.Errorf("make %s read-only: %w", at, err), unmount(at))
	}
	return nil
}

func (n *node) NodeUnpublishVolume(_ context.Context, r *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	err := unmount(r.GetTargetPath())
	if err == nil {
		if err = os.Remove(r.GetTargetPath()); errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	}
	return &csi.NodeUnpublishVolumeResponse{}, coded(err)
}

// unmount unmounts what is mounted there, if anything is.
func unmount(at string) error {
	mounted, err := mountPoint(at)
	if err != nil || !mounted {
		return err
	}
	if err := unix.Unmount(at, 0); err != nil {
		return fmt.Errorf("unmount %s: %w", at, err)
	}
	return nil
}

// mountPoint says whether something is mounted there.
func mountPoint(at string) (bool, error) {
	mounted, err := mountinfo.Mounted(at)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return mounted, err
}
