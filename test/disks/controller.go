// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"path/filepath"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// controller attaches disks to nodes and detaches them.
type controller struct {
	csi.UnimplementedControllerServer
	store store
}

func (c controller) ControllerGetCapabilities(context.Context, *csi.ControllerGetCapabilitiesRequest) (*csi.ControllerGetCapabilitiesResponse, error) {
	return &csi.ControllerGetCapabilitiesResponse{Capabilities: []*csi.ControllerServiceCapability{{Type: &csi.ControllerServiceCapability_Rpc{
		Rpc: &csi.ControllerServiceCapability_RPC{Type: csi.ControllerServiceCapability_RPC_PUBLISH_UNPUBLISH_VOLUME},
	}}}}, nil
}

func (c controller) ControllerPublishVolume(_ context.Context, r *csi.ControllerPublishVolumeRequest) (*csi.ControllerPublishVolumeResponse, error) {
	if err := valid(r.GetVolumeId(), r.GetVolumeCapability()); err != nil {
		return nil, err
	}
	if r.GetNodeId() == "" {
		return nil, status.Error(codes.InvalidArgument, "no node is named")
	}
	err := c.store.attach(r.GetVolumeId(), r.GetNodeId())
	return &csi.ControllerPublishVolumeResponse{}, coded(err)
}

func (c controller) ControllerUnpublishVolume(_ context.Context, r *csi.ControllerUnpublishVolumeRequest) (*csi.ControllerUnpublishVolumeResponse, error) {
	if err := validID(r.GetVolumeId()); err != nil {
		return nil, err
	}
	return &csi.ControllerUnpublishVolumeResponse{}, coded(c.store.detach(r.GetVolumeId(), r.GetNodeId()))
}

// valid checks which disk is asked for and how it is to be used: as a file system of
// one node.
func valid(id string, c *csi.VolumeCapability) error {
	if err := validID(id); err != nil {
		return err
	}
	if c.GetMount() == nil {
		return status.Error(codes.InvalidArgument, "a disk can be mounted, and nothing else")
	}
	switch mode := c.GetAccessMode().GetMode(); mode {
	case csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER, csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY:
		return nil
	default:
		return status.Errorf(codes.InvalidArgument, "a disk is one node's only, %s is not possible", mode)
	}
}

// validID checks that the name of a disk is one of a file.
func validID(id string) error {
	if id == "" || id != filepath.Base(id) || id[0] == '.' {
		return status.Errorf(codes.InvalidArgument, "%q does not name a disk", id)
	}
	return nil
}

// coded gives an error the code that callers know it by.
func coded(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errElsewhere):
		return status.Error(codes.FailedPrecondition, err.Error())
	default:
		return status.Error(codes.Internal, err.Error())
	}
}
