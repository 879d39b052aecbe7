// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func mounted(mode csi.VolumeCapability_AccessMode_Mode) *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: "ext4"}},
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: mode},
	}
}

func TestWhatADiskIsNotAttachedFor(t *testing.T) {
	c := controller{store: store{dir: t.TempDir()}}
	writer := mounted(csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER)
	block := &csi.VolumeCapability{AccessType: &csi.VolumeCapability_Block{}, AccessMode: writer.GetAccessMode()}
	for name, row := range map[string]struct {
		id, node string
		use      *csi.VolumeCapability
		want     codes.Code
	}{
		"as it should be": {"disk", "n1", writer, codes.OK},
		"again":           {"disk", "n1", writer, codes.OK},
		"no name":         {"", "n1", writer, codes.InvalidArgument},
		"a path":          {"../disk", "n1", writer, codes.InvalidArgument},
		"a hidden file":   {".disk", "n1", writer, codes.InvalidArgument},
		"no node":         {"disk", "", writer, codes.InvalidArgument},
		"many nodes":      {"disk", "n1", mounted(csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER), codes.InvalidArgument},
		"a block device":  {"disk", "n1", block, codes.InvalidArgument},
	} {
		_, err := c.ControllerPublishVolume(t.Context(), &csi.ControllerPublishVolumeRequest{VolumeId: row.id, NodeId: row.node, VolumeCapability: row.use})
		if got := status.Code(err); got != row.want {
			t.Errorf("%s: %v (%v), want %v", name, got, err, row.want)
		}
	}
}

func TestAnotherNodesDiskIsAFailedPrecondition(t *testing.T) {
	c := controller{store: store{dir: t.TempDir()}}
	writer := mounted(csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER)
	publish := func(node string) codes.Code {
		_, err := c.ControllerPublishVolume(t.Context(), &csi.ControllerPublishVolumeRequest{VolumeId: "disk", NodeId: node, VolumeCapability: writer})
		return status.Code(err)
	}
	if got := publish("n1"); got != codes.OK {
		t.Fatal(got)
	}
	if got := publish("n2"); got != codes.FailedPrecondition {
		t.Errorf("the second node: %v", got)
	}
	if _, err := c.ControllerUnpublishVolume(t.Context(), &csi.ControllerUnpublishVolumeRequest{VolumeId: "disk", NodeId: "n1"}); err != nil {
		t.Error(err)
	}
	if got := publish("n2"); got != codes.OK {
		t.Errorf("the second node, once the first has not: %v", got)
	}
}
