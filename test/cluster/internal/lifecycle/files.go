// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/crypto/ssh"

	"godwit.dev/godwit/test/cluster/client"
	"godwit.dev/godwit/test/cluster/internal/controlplane"
	"godwit.dev/godwit/test/cluster/internal/host"
	"godwit.dev/godwit/test/cluster/internal/node"
	"godwit.dev/godwit/test/cluster/internal/topology"
)

// writeFiles makes everything that a cluster reads: credentials, configuration,
// the nodes' disks and their seeds.
func (c *Cluster) writeFiles(ctx context.Context, s *state) error {
	for _, dir := range []string{c.path("pki"), c.path("control-plane"), c.path("logs"), c.path("ssh"), c.runDir()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	credentials, err := controlplane.NewCredentials(c.Name)
	if err != nil {
		return err
	}
	for name, content := range credentials.Files {
		if err := os.WriteFile(c.path("pki", name), content, 0o600); err != nil {
			return err
		}
	}
	for path, content := range map[string][]byte{
		c.Kubeconfig(): credentials.Admin,
		c.path("control-plane", controlplane.CorefileName):      controlplane.Corefile(c.path("pki", "coredns.conf")),
		c.path("control-plane", controlplane.ProxyConfigFile):   controlplane.ProxyConfig("control-plane", c.path("pki", "kube-proxy.conf"), topology.ControlPlaneIP),
		filepath.Join(c.Namespace().ConfigDir(), "resolv.conf"): controlplane.ResolvConf(),
	} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, content, 0o600); err != nil {
			return err
		}
	}
	authorized, err := writeLoginKey(c.path("ssh", client.IdentityFile))
	if err != nil {
		return err
	}
	known := ""
	for _, n := range topology.Nodes() {
		line, err := c.writeNodeFiles(ctx, s, n, credentials, authorized)
		if err != nil {
			return fmt.Errorf("node %s: %w", n.Name, err)
		}
		known += line
	}
	return os.WriteFile(c.path("ssh", client.KnownHostsFile), []byte(known), 0o600)
}

// writeNodeFiles makes a node's disk and seed and returns its line of
// known_hosts.
func (c *Cluster) writeNodeFiles(ctx context.Context, s *state, n topology.Node, credentials *controlplane.Credentials, authorized []byte) (string, error) {
	if err := os.MkdirAll(c.path(n.Name), 0o700); err != nil {
		return "", err
	}
	public, private, err := newSSHKey()
	if err != nil {
		return "", err
	}
	seed, err := node.Seed(c.Name, n, credentials, node.SSH{AuthorizedKey: authorized, HostKey: private})
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(c.path(n.Name, "seed.tar"), seed, 0o600); err != nil {
		return "", err
	}
	err = host.Run(ctx, "qemu-img", "create", "-q", "-f", "qcow2", "-b", s.Artifacts.Image.Disk, "-F", "raw", c.path(n.Name, "disk.qcow2"))
	return fmt.Sprintf("%s,%s %s", n.Name, n.IP, ssh.MarshalAuthorizedKey(public)), err
}

// writeLoginKey makes the key that logs in to the nodes and returns its public
// half as a line of authorized_keys.
func writeLoginKey(path string) ([]byte, error) {
	public, private, err := newSSHKey()
	if err != nil {
		return nil, err
	}
	return ssh.MarshalAuthorizedKey(public), os.WriteFile(path, private, 0o600)
}

// newSSHKey makes a key pair, the private half in OpenSSH's format.
func newSSHKey() (ssh.PublicKey, []byte, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		return nil, nil, err
	}
	key, err := ssh.NewPublicKey(public)
	return key, pem.EncodeToMemory(block), err
}
