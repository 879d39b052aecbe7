// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Command disks is a CSI driver for tests: disks that one node at a time can have.
// A disk is a file on the cluster's file server with an ext4 file system in it. The node
// that has it attached mounts it through a loop device, as it would a disk of its own;
// two nodes that did so would destroy it.
//
// Every node runs one, with the three services of a driver and kubelet's registration
// service. Disks are made when they are first mounted; there is no provisioner. The
// attributes of a volume are its size in bytes, under "size".
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log"
	"net"
	"os"
	"os/signal"
	"path/filepath"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

func main() {
	var o options
	flag.StringVar(&o.name, "driver", "", "name of the driver")
	flag.StringVar(&o.node, "node", "", "name of this node")
	flag.StringVar(&o.dir, "dir", "", "directory of the file server that holds the disks")
	flag.StringVar(&o.kubelet, "kubelet", "/var/lib/kubelet", "kubelet's directory, at the same place as on the node")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		log.Fatal("disks: ", err)
	}
}

type options struct{ name, node, dir, kubelet string }

// socket is where the driver's services are, for kubelet and for the attacher.
func (o options) socket() string { return filepath.Join(o.kubelet, "plugins", o.name, "csi.sock") }

func run(ctx context.Context, o options) error {
	if o.name == "" || o.node == "" || o.dir == "" {
		return errors.New("-driver, -node and -dir have to be set")
	}
	if err := os.MkdirAll(o.dir, 0o700); err != nil {
		return err
	}
	if err := loadLoopDriver(); err != nil {
		return err
	}
	s := store{dir: o.dir}
	driver := grpc.NewServer(grpc.UnaryInterceptor(logged))
	csi.RegisterIdentityServer(driver, identity{name: o.name})
	csi.RegisterControllerServer(driver, controller{store: s})
	csi.RegisterNodeServer(driver, &node{store: s, name: o.node})

	group, ctx := errgroup.WithContext(ctx)
	announcement := grpc.NewServer()
	registration.RegisterRegistrationServer(announcement, announce{options: o})
	// kubelet looks for the driver as soon as it sees that it is announced.
	for _, at := range []struct {
		server *grpc.Server
		socket string
	}{
		{driver, o.socket()},
		{announcement, filepath.Join(o.kubelet, "plugins_registry", o.name+"-reg.sock")},
	} {
		l, err := listen(at.socket)
		if err != nil {
			return err
		}
		group.Go(func() error { return at.server.Serve(l) })
		group.Go(func() error {
			<-ctx.Done()
			at.server.GracefulStop()
			return nil
		})
	}
	return group.Wait()
}

// listen takes the place of a socket that an earlier process has left.
func listen(socket string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
		return nil, err
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return net.Listen("unix", socket)
}

// logged writes what was asked for, but not questions that are asked all the time.
func logged(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	response, err := handler(ctx, request)
	if r, ok := request.(interface{ GetVolumeId() string }); ok {
		log.Printf("%s of %s: %v", filepath.Base(info.FullMethod), r.GetVolumeId(), err)
	}
	return response, err
}

// announce tells kubelet of the driver.
type announce struct {
	registration.UnimplementedRegistrationServer
	options
}

func (a announce) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return &registration.PluginInfo{
		Type: registration.CSIPlugin, Name: a.name, Endpoint: a.socket(), SupportedVersions: []string{"1.0.0"},
	}, nil
}

// NotifyRegistrationStatus is told what kubelet made of it. A driver that is refused is
// started again.
func (a announce) NotifyRegistrationStatus(_ context.Context, status *registration.RegistrationStatus) (*registration.RegistrationStatusResponse, error) {
	if !status.PluginRegistered {
		log.Fatal("disks: kubelet does not take the driver: ", status.Error)
	}
	log.Print("kubelet has taken the driver")
	return &registration.RegistrationStatusResponse{}, nil
}

// identity is what every driver says of itself.
type identity struct {
	csi.UnimplementedIdentityServer
	name string
}

func (i identity) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: i.name, VendorVersion: "1"}, nil
}

func (i identity) GetPluginCapabilities(context.Context, *csi.GetPluginCapabilitiesRequest) (*csi.GetPluginCapabilitiesResponse, error) {
	return &csi.GetPluginCapabilitiesResponse{Capabilities: []*csi.PluginCapability{{Type: &csi.PluginCapability_Service_{
		Service: &csi.PluginCapability_Service{Type: csi.PluginCapability_Service_CONTROLLER_SERVICE},
	}}}}, nil
}

func (i identity) Probe(context.Context, *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	return &csi.ProbeResponse{}, nil
}

// sizeOf is the size in bytes that the attributes of a volume name.
func sizeOf(attributes map[string]string) (int64, error) {
	var size int64
	if _, err := fmt.Sscan(attributes["size"], &size); err != nil || size <= 0 {
		return 0, fmt.Errorf("the attribute size is %q, no number of bytes", attributes["size"])
	}
	return size, nil
}
