// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Package topology names the cluster's nodes and addresses. Every cluster lives
// in a network namespace of its own, so all clusters use the same ones.
package topology

import "fmt"

const (
	// Bridge is the interface that joins the control plane and the nodes.
	Bridge = "gw0"
	// ControlPlaneIP is the bridge's own address: etcd, the API server, cluster
	// DNS, NFS and the time server listen there.
	ControlPlaneIP = "10.100.0.1"
	// Network is the prefix length of the nodes' network.
	Network = "10.100.0.0/24"
	// NetworkBits is Network's prefix length.
	NetworkBits = 24
	// PodCIDR covers the pods of all nodes.
	PodCIDR = "10.200.0.0/16"
	// ServiceCIDR is the range of cluster IPs.
	ServiceCIDR = "10.96.0.0/16"
	// APIServiceIP is the cluster IP of the Service default/kubernetes.
	APIServiceIP = "10.96.0.1"
	// DNSServiceIP is the cluster IP of the Service kube-system/kube-dns.
	DNSServiceIP = "10.96.0.10"
	// ClusterDomain ends the DNS names of Services.
	ClusterDomain = "cluster.local"
	// APIPort is the API server's port on ControlPlaneIP.
	APIPort = 6443
	// NFSExport is the path of the shared volume on the NFS server.
	NFSExport = "/images"
	// StorageClass is the class of the shared ReadWriteMany volume.
	StorageClass = "godwit-images"
	// PauseImage is the sandbox image, built locally and imported on each node.
	PauseImage = "localhost/godwit-pause:1"
)

// APIServerURL is where everything inside the namespace finds the API server.
var APIServerURL = fmt.Sprintf("https://%s:%d", ControlPlaneIP, APIPort)

// Node is one worker node, a virtual machine.
type Node struct {
	// Name is the host name and the Node object's name.
	Name string
	// IP is the node's address on the bridge.
	IP string
	// MAC is the address of its only network card.
	MAC string
	// Tap is the host's end of that card.
	Tap string
	// PodCIDR is the range of its pods' addresses.
	PodCIDR string
	// PodGateway is the node's own address in PodCIDR.
	PodGateway string
}

// Nodes returns the worker nodes.
func Nodes() []Node {
	nodes := make([]Node, 0, 2)
	for i := 1; i <= 2; i++ {
		nodes = append(nodes, Node{
			Name:       fmt.Sprintf("n%d", i),
			IP:         fmt.Sprintf("10.100.0.%d", 10+i),
			MAC:        fmt.Sprintf("52:54:00:64:00:%02x", i),
			Tap:        fmt.Sprintf("tap%d", i),
			PodCIDR:    fmt.Sprintf("10.200.%d.0/24", i),
			PodGateway: fmt.Sprintf("10.200.%d.1", i),
		})
	}
	return nodes
}

// FindNode returns the node of that name.
func FindNode(name string) (Node, error) {
	for _, n := range Nodes() {
		if n.Name == name {
			return n, nil
		}
	}
	return Node{}, fmt.Errorf("no node %q: the nodes are n1 and n2", name)
}
