// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Package controlplane says how the native parts of a cluster are run: which
// files they read and which arguments they take. It starts nothing.
package controlplane

import (
	"fmt"
	"path/filepath"

	"godwit.dev/godwit/test/cluster/internal/topology"
)

// Paths are where the parts find their programs and files.
type Paths struct {
	// Kubernetes, Etcd and CoreDNS are directories of programs.
	Kubernetes, Etcd, CoreDNS string
	// PKI holds certificates, keys and the parts' kubeconfigs.
	PKI string
	// Data holds the store and the parts' configuration files.
	Data string
}

func (p Paths) pki(name string) string  { return filepath.Join(p.PKI, name) }
func (p Paths) data(name string) string { return filepath.Join(p.Data, name) }

// Part is one process of the control plane.
type Part struct {
	// Name is also the name of its log file.
	Name string
	// Args are the program and its arguments.
	Args []string
	// Client is set for the parts that give up if the API server does not
	// answer, or does not yet know what they may do.
	Client bool
}

// Parts returns the processes in the order in which they are started.
func Parts(p Paths) []Part {
	return []Part{
		{Name: "etcd", Args: p.etcd()},
		{Name: "kube-apiserver", Args: p.apiServer()},
		{Name: "kube-controller-manager", Args: p.controllerManager(), Client: true},
		{Name: "kube-scheduler", Args: p.scheduler(), Client: true},
		{Name: "kube-proxy", Client: true, Args: []string{
			filepath.Join(p.Kubernetes, "kube-proxy"), "--config=" + p.data(ProxyConfigFile),
		}},
		{Name: "coredns", Client: true, Args: []string{
			filepath.Join(p.CoreDNS, "coredns"), "-conf", p.data(CorefileName),
		}},
	}
}

func (p Paths) etcd() []string {
	return []string{
		filepath.Join(p.Etcd, "etcd"),
		"--name=godwit",
		"--data-dir=" + p.data("etcd"),
		// Only the API server, in the same namespace, talks to it.
		"--listen-client-urls=http://127.0.0.1:2379",
		"--advertise-client-urls=http://127.0.0.1:2379",
		"--listen-peer-urls=http://127.0.0.1:2380",
		"--initial-advertise-peer-urls=http://127.0.0.1:2380",
		"--initial-cluster=godwit=http://127.0.0.1:2380",
		// Two emulated nodes share the processors with it: a late heartbeat must
		// not start an election that only this member can win.
		"--heartbeat-interval=500",
		"--election-timeout=5000",
		// The data need not survive a crash of the machine, and the disk is busy
		// with the nodes'.
		"--unsafe-no-fsync",
	}
}

func (p Paths) apiServer() []string {
	return []string{
		filepath.Join(p.Kubernetes, "kube-apiserver"),
		"--advertise-address=" + topology.ControlPlaneIP,
		fmt.Sprintf("--secure-port=%d", topology.APIPort),
		"--etcd-servers=http://127.0.0.1:2379",
		"--service-cluster-ip-range=" + topology.ServiceCIDR,
		"--allow-privileged=true",
		"--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction",
		"--client-ca-file=" + p.pki("ca.crt"),
		"--tls-cert-file=" + p.pki("kube-apiserver.crt"),
		"--tls-private-key-file=" + p.pki("kube-apiserver.key"),
		// kubelets are reached by address, with certificates that are verified.
		"--kubelet-certificate-authority=" + p.pki("ca.crt"),
		"--kubelet-client-certificate=" + p.pki("kube-apiserver-kubelet-client.crt"),
		"--kubelet-client-key=" + p.pki("kube-apiserver-kubelet-client.key"),
		"--kubelet-preferred-address-types=InternalIP",
		"--service-account-issuer=https://kubernetes.default.svc." + topology.ClusterDomain,
		"--service-account-key-file=" + p.pki("service-account.pub"),
		"--service-account-signing-key-file=" + p.pki("service-account.key"),
		// Webhooks and aggregated APIs are called at their endpoints' addresses,
		// for which there are routes, whether or not kube-proxy has caught up.
		"--enable-aggregator-routing=true",
		"--requestheader-client-ca-file=" + p.pki("front-proxy-ca.crt"),
		"--requestheader-allowed-names=front-proxy-client",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--requestheader-group-headers=X-Remote-Group",
		"--requestheader-username-headers=X-Remote-User",
		"--proxy-client-cert-file=" + p.pki("front-proxy-client.crt"),
		"--proxy-client-key-file=" + p.pki("front-proxy-client.key"),
	}
}

func (p Paths) controllerManager() []string {
	kubeconfig := p.pki("kube-controller-manager.conf")
	return []string{
		filepath.Join(p.Kubernetes, "kube-controller-manager"),
		"--kubeconfig=" + kubeconfig,
		"--authentication-kubeconfig=" + kubeconfig,
		"--authorization-kubeconfig=" + kubeconfig,
		"--bind-address=127.0.0.1",
		"--leader-elect=false",
		"--use-service-account-credentials=true",
		"--root-ca-file=" + p.pki("ca.crt"),
		"--service-account-private-key-file=" + p.pki("service-account.key"),
		"--cluster-signing-cert-file=" + p.pki("ca.crt"),
		"--cluster-signing-key-file=" + p.pki("ca.key"),
		"--service-cluster-ip-range=" + topology.ServiceCIDR,
		// The Node objects are made with their ranges: an allocator would hand
		// them out in the order in which the nodes happen to come up.
		"--allocate-node-cidrs=false",
		// kubelet renews its lease every 10 s. An emulated node that dumps a big
		// process can miss several renewals without being lost, and a node that
		// is taken for lost in the middle of a migration spoils it.
		"--node-monitor-grace-period=100s",
		"--node-startup-grace-period=180s",
	}
}

func (p Paths) scheduler() []string {
	kubeconfig := p.pki("kube-scheduler.conf")
	return []string{
		filepath.Join(p.Kubernetes, "kube-scheduler"),
		"--kubeconfig=" + kubeconfig,
		"--authentication-kubeconfig=" + kubeconfig,
		"--authorization-kubeconfig=" + kubeconfig,
		"--bind-address=127.0.0.1",
		"--leader-elect=false",
	}
}
