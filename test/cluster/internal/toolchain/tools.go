// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package toolchain

import (
	"strings"

	"godwit.dev/godwit/test/cluster/guest"
	"godwit.dev/godwit/test/cluster/pins"
)

// Kubernetes is the control plane, the node's components and kubectl.
func Kubernetes(v pins.Versions) Tool {
	var flags []string
	minor := minorOf(v.Kubernetes)
	for _, pkg := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		flags = append(flags,
			"-X "+pkg+".gitVersion="+v.Kubernetes,
			"-X "+pkg+".gitMajor=1",
			"-X "+pkg+".gitMinor="+minor,
			"-X "+pkg+".gitTreeState=clean")
	}
	t := Tool{Name: "kubernetes", Module: "k8s.io/kubernetes", Version: v.Kubernetes, LinkFlags: flags, Staging: true}
	for _, name := range []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl"} {
		t.Programs = append(t.Programs, Program{Name: name, Package: "k8s.io/kubernetes/cmd/" + name})
	}
	return t
}

// Etcd is the API server's store.
func Etcd(v pins.Versions) Tool {
	return Tool{
		Name: "etcd", Module: "go.etcd.io/etcd/server/v3", Version: v.Etcd,
		Programs: []Program{{Name: "etcd", Package: "go.etcd.io/etcd/server/v3"}},
	}
}

// Containerd is the nodes' container runtime, its shim and its client.
func Containerd(v pins.Versions) Tool {
	const module = "github.com/containerd/containerd/v2"
	return Tool{
		Name: "containerd", Module: module, Version: v.Containerd,
		LinkFlags: []string{"-X " + module + "/version.Version=" + v.Containerd},
		Programs: []Program{
			{Name: "containerd", Package: module + "/cmd/containerd"},
			{Name: "containerd-shim-runc-v2", Package: module + "/cmd/containerd-shim-runc-v2"},
			{Name: "ctr", Package: module + "/cmd/ctr"},
		},
	}
}

// Runc is the nodes' OCI runtime. It cannot do without cgo: it enters the
// container's namespaces in C, before the Go runtime starts its threads.
func Runc(v pins.Versions) Tool {
	const module = "github.com/opencontainers/runc"
	return Tool{
		Name: "runc", Module: module, Version: v.Runc, Cgo: true,
		Tags:      []string{"seccomp", "urfave_cli_no_docs", "netgo", "osusergo"},
		LinkFlags: []string{"-extldflags -static"},
		Programs:  []Program{{Name: "runc", Package: module}},
	}
}

// CNIPlugins are the network plugins of the nodes' configuration.
func CNIPlugins(v pins.Versions) Tool {
	const module = "github.com/containernetworking/plugins"
	return Tool{
		Name: "cni", Module: module, Version: v.CNIPlugins,
		Programs: []Program{
			{Name: "bridge", Package: module + "/plugins/main/bridge"},
			{Name: "loopback", Package: module + "/plugins/main/loopback"},
			{Name: "host-local", Package: module + "/plugins/ipam/host-local"},
			{Name: "portmap", Package: module + "/plugins/meta/portmap"},
		},
	}
}

// CoreDNS is the cluster's DNS server. Only the plugins that its configuration
// names are compiled in: the full set brings the client libraries of three
// cloud providers.
func CoreDNS(v pins.Versions) Tool {
	return Tool{
		Name: "coredns", Module: "github.com/coredns/coredns", Version: v.CoreDNS,
		Programs: []Program{{Name: "coredns", Package: "."}},
		Source: []byte(`package main

import (
	"github.com/coredns/coredns/coremain"
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/log"
	_ "github.com/coredns/coredns/plugin/ready"
)

func main() { coremain.Run() }
`),
	}
}

// GuestInit is process 1 of the nodes' initial RAM file system.
func GuestInit() Tool {
	return Tool{Name: "init", Programs: []Program{{Name: "init", Package: "."}}, Source: guest.InitSource}
}

// Pause is the program of the sandbox image.
func Pause() Tool {
	return Tool{Name: "pause", Programs: []Program{{Name: "pause", Package: "."}}, Source: guest.PauseSource}
}

// Steady is the program that keeps the nodes' kernels from patching themselves.
func Steady() Tool {
	return Tool{Name: "steady", Programs: []Program{{Name: "steady", Package: "."}}, Source: guest.SteadySource}
}

// minorOf returns N of v1.N.P.
func minorOf(version string) string {
	parts := strings.SplitN(version, ".", 3)
	if len(parts) != 3 {
		return ""
	}
	return parts[1]
}
