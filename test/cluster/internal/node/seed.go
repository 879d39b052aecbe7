// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"sort"
	"strings"

	"godwit.dev/godwit/test/cluster/internal/controlplane"
	"godwit.dev/godwit/test/cluster/internal/pki"
	"godwit.dev/godwit/test/cluster/internal/topology"
)

// SSH is what a node needs to be reached and to be recognized.
type SSH struct {
	// AuthorizedKey may log in as root.
	AuthorizedKey []byte
	// HostKey is the node's private key in OpenSSH's format.
	HostKey []byte
}

// Seed returns the archive with the files that make a node this node. The init
// program unpacks it over the root file system at each boot.
func Seed(cluster string, n topology.Node, c *controlplane.Credentials, ssh SSH) ([]byte, error) {
	kubelet, err := c.Kubeconfig(cluster, pki.Subject{Name: "system:node:" + n.Name, Groups: []string{"system:nodes"}})
	if err != nil {
		return nil, err
	}
	serving, err := c.CA.Issue(pki.Subject{
		Name: "system:node:" + n.Name, Groups: []string{"system:nodes"},
		DNSNames: []string{n.Name}, IPs: []string{n.IP}, Server: true,
	})
	if err != nil {
		return nil, err
	}
	return archive(map[string]file{
		"etc/hostname":                     {content: []byte(n.Name + "\n")},
		"etc/machine-id":                   {content: machineID(cluster, n)},
		"etc/hosts":                        {content: hosts()},
		"etc/godwit/ip.batch":              {content: addresses(n)},
		"etc/godwit/node.env":              {content: []byte("NODE_IP=" + n.IP + "\n")},
		"etc/cni/net.d/10-godwit.conflist": {content: networkConfig(n)},
		"etc/kubernetes/ca.crt":            {content: c.CA.Cert},
		"etc/kubernetes/kubelet.conf":      {content: kubelet, private: true},
		"etc/kubernetes/kubelet.crt":       {content: serving.Cert},
		"etc/kubernetes/kubelet.key":       {content: serving.Key, private: true},
		"etc/kubernetes/kubelet.yaml":      {content: kubeletConfig()},
		"etc/kubernetes/kube-proxy.conf":   {content: c.Files["kube-proxy.conf"], private: true},
		"etc/kubernetes/kube-proxy.yaml":   {content: controlplane.ProxyConfig(n.Name, "/etc/kubernetes/kube-proxy.conf", n.IP)},
		"etc/ssh/ssh_host_ed25519_key":     {content: ssh.HostKey, private: true},
		"root/.ssh/authorized_keys":        {content: ssh.AuthorizedKey, private: true},
	})
}

type file struct {
	content []byte
	private bool
}

func archive(files map[string]file) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		f := files[name]
		h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(f.content))}
		if f.private {
			h.Mode = 0o600
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.content); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return out.Bytes(), err
}

// machineID differs between nodes and stays the same over a node's boots.
func machineID(cluster string, n topology.Node) []byte {
	sum := sha256.Sum256([]byte("godwit machine " + cluster + "/" + n.Name))
	return []byte(hex.EncodeToString(sum[:16]) + "\n")
}

func hosts() []byte {
	out := "127.0.0.1 localhost\n" + topology.ControlPlaneIP + " control-plane\n"
	for _, n := range topology.Nodes() {
		out += n.IP + " " + n.Name + "\n"
	}
	return []byte(out)
}

// addresses is a batch of ip(8): the node's own address and the routes to the
// pods of the other nodes.
func addresses(n topology.Node) []byte {
	lines := []string{
		"link set lo up",
		"link set eth0 up",
		fmt.Sprintf("addr replace %s/%d dev eth0", n.IP, topology.NetworkBits),
		"route replace default via " + topology.ControlPlaneIP,
	}
	for _, other := range topology.Nodes() {
		if other.Name != n.Name {
			lines = append(lines, fmt.Sprintf("route replace %s via %s", other.PodCIDR, other.IP))
		}
	}
	return []byte(strings.Join(lines, "\n") + "\n")
}

// networkConfig is the CNI configuration. Pods keep their addresses towards the
// nodes and the control plane: both have routes to them.
func networkConfig(n topology.Node) []byte {
	return fmt.Appendf(nil, `{
  "cniVersion": "1.0.0",
  "name": "godwit",
  "plugins": [
    {
      "type": "bridge",
      "bridge": "cni0",
      "isDefaultGateway": true,
      "ipMasq": false,
      "hairpinMode": true,
      "ipam": {
        "type": "host-local",
        "ranges": [[{"subnet": %q, "gateway": %q}]]
      }
    },
    {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true, "backend": "nftables"}
  ]
}
`, n.PodCIDR, n.PodGateway)
}

func kubeletConfig() []byte {
	return fmt.Appendf(nil, `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: /etc/kubernetes/ca.crt}
authorization: {mode: Webhook}
tlsCertFile: /etc/kubernetes/kubelet.crt
tlsPrivateKeyFile: /etc/kubernetes/kubelet.key
cgroupDriver: systemd
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
clusterDomain: %s
clusterDNS: [%s]
resolvConf: /etc/resolv.conf
# There is no registry: an image that is collected is gone.
imageGCHighThresholdPercent: 100
evictionHard:
  memory.available: 100Mi
  nodefs.available: 2%%
  imagefs.available: 2%%
`, topology.ClusterDomain, topology.DNSServiceIP)
}
