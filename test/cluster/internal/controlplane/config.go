// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package controlplane

import (
	"bytes"
	_ "embed"
	"fmt"
	"text/template"

	"godwit.dev/godwit/test/cluster/internal/topology"
)

const (
	// ProxyConfigFile is the name of the configuration of the namespace's own
	// kube-proxy.
	ProxyConfigFile = "kube-proxy.yaml"
	// CorefileName is the name of the DNS server's configuration.
	CorefileName = "Corefile"
	// DNSReadyAddress answers GET /ready with 200 once cluster DNS serves.
	DNSReadyAddress = topology.ControlPlaneIP + ":8181"
)

//go:embed bootstrap.yaml
var bootstrapTemplate string

// ProxyConfig is the configuration of a kube-proxy: the namespace's own one, so
// that test clients reach cluster IPs, or a node's.
func ProxyConfig(hostname, kubeconfig, bind string) []byte {
	return fmt.Appendf(nil, `apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
hostnameOverride: %s
bindAddress: %s
healthzBindAddress: 127.0.0.1:10256
metricsBindAddress: 127.0.0.1:10249
clusterCIDR: %s
clientConnection:
  kubeconfig: %s
# The connection table's limits are the kernel's business: those of the host
# must not change, and a network namespace may not set them.
conntrack:
  maxPerCore: 0
  min: 0
  tcpEstablishedTimeout: 0s
  tcpCloseWaitTimeout: 0s
`, hostname, bind, topology.PodCIDR, kubeconfig)
}

// Corefile is the configuration of cluster DNS. There is nothing to forward to:
// names outside the cluster do not exist for it.
func Corefile(kubeconfig string) []byte {
	return fmt.Appendf(nil, `.:53 {
	errors
	ready %s
	kubernetes %s in-addr.arpa ip6.arpa {
		kubeconfig %s
		pods insecure
		ttl 5
	}
	cache 5
}
`, DNSReadyAddress, topology.ClusterDomain, kubeconfig)
}

// ResolvConf makes programs inside the namespace resolve the names of Services
// like a pod of the namespace default.
func ResolvConf() []byte {
	d := topology.ClusterDomain
	return fmt.Appendf(nil, "nameserver %s\nsearch default.svc.%s svc.%s %s\noptions ndots:5\n", topology.ControlPlaneIP, d, d, d)
}

// Bootstrap returns the manifests that every cluster begins with: its nodes,
// what its parts may do, cluster DNS and the shared volume of volumeGiB.
func Bootstrap(volumeGiB int) ([]byte, error) {
	t, err := template.New("bootstrap").Option("missingkey=error").Parse(bootstrapTemplate)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err = t.Execute(&out, map[string]any{
		"Nodes":          topology.Nodes(),
		"DNSServiceIP":   topology.DNSServiceIP,
		"ControlPlaneIP": topology.ControlPlaneIP,
		"NFSExport":      topology.NFSExport,
		"StorageClass":   topology.StorageClass,
		"VolumeGiB":      volumeGiB,
	})
	return out.Bytes(), err
}
