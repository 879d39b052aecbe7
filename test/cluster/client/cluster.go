// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Package client is how tests reach the nodes of a cluster: run commands, copy
// files, import images, collect logs, and break things. Tests run inside the
// cluster's network namespace (see "cluster exec"), where FromEnvironment finds
// the cluster.
package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"godwit.dev/godwit/test/cluster/internal/topology"
)

const (
	// EnvDir names the cluster's directory; "cluster exec" sets it.
	EnvDir = "GODWIT_CLUSTER_DIR"
	// EnvName is the cluster's name; "cluster exec" sets it.
	EnvName = "GODWIT_CLUSTER"
	// EnvTool is the path of the cluster tool; "cluster exec" sets it.
	EnvTool = "GODWIT_CLUSTER_TOOL"

	// KubeconfigFile is an administrator's kubeconfig in the cluster's
	// directory; the two files below lie in its folder ssh.
	KubeconfigFile = "kubeconfig"
	// IdentityFile is the private key that the nodes' root accepts.
	IdentityFile = "id_ed25519"
	// KnownHostsFile holds the nodes' host keys.
	KnownHostsFile = "known_hosts"

	// StorageClass is the class of the shared ReadWriteMany volume.
	StorageClass = topology.StorageClass
)

// Dialer connects to an address of the cluster's network.
type Dialer func(ctx context.Context, network, address string) (net.Conn, error)

// Option changes how a Cluster is opened.
type Option func(*Cluster)

// WithDialer connects through d, for a process outside the namespace.
func WithDialer(d Dialer) Option { return func(c *Cluster) { c.dial = d } }

// Cluster is a running cluster.
type Cluster struct {
	dir  string
	dial Dialer
	ssh  ssh.ClientConfig

	nodes map[string]*Node
}

// Open opens the cluster with that directory. It connects to nothing yet.
func Open(dir string, options ...Option) (*Cluster, error) {
	key, err := os.ReadFile(filepath.Join(dir, "ssh", IdentityFile))
	if err != nil {
		return nil, fmt.Errorf("open cluster: %w", err)
	}
	signer, err := ssh.ParsePrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("open cluster: %w", err)
	}
	known, err := knownhosts.New(filepath.Join(dir, "ssh", KnownHostsFile))
	if err != nil {
		return nil, fmt.Errorf("open cluster: %w", err)
	}
	dialer := net.Dialer{Timeout: 10 * time.Second}
	c := &Cluster{
		dir:  dir,
		dial: dialer.DialContext,
		ssh: ssh.ClientConfig{
			User:            "root",
			Auth:            []ssh.AuthMethod{ssh.PublicKeys(signer)},
			HostKeyCallback: known,
			// An emulated processor takes its time over the key exchange.
			Timeout: 30 * time.Second,
		},
		nodes: map[string]*Node{},
	}
	for _, option := range options {
		option(c)
	}
	for _, n := range topology.Nodes() {
		c.nodes[n.Name] = &Node{Name: n.Name, IP: n.IP, cluster: c}
	}
	return c, nil
}

// FromEnvironment opens the cluster inside whose namespace this process was
// started by "cluster exec".
func FromEnvironment() (*Cluster, error) {
	dir := os.Getenv(EnvDir)
	if dir == "" {
		return nil, fmt.Errorf("%s is not set: run inside the cluster, with \"cluster exec -- COMMAND\"", EnvDir)
	}
	return Open(dir)
}

// Dir is the directory with the cluster's files and logs.
func (c *Cluster) Dir() string { return c.dir }

// Kubeconfig is the path of the administrator's kubeconfig.
func (c *Cluster) Kubeconfig() string { return filepath.Join(c.dir, KubeconfigFile) }

// Nodes returns the worker nodes, n1 first.
func (c *Cluster) Nodes() []*Node {
	var all []*Node
	for _, n := range topology.Nodes() {
		all = append(all, c.nodes[n.Name])
	}
	return all
}

// Node returns the node of that name.
func (c *Cluster) Node(name string) (*Node, error) {
	n, ok := c.nodes[name]
	if !ok {
		return nil, fmt.Errorf("no node %q: the nodes are n1 and n2", name)
	}
	return n, nil
}

// Close closes the connections to all nodes.
func (c *Cluster) Close() error {
	var errs []error
	for _, n := range c.Nodes() {
		errs = append(errs, n.disconnect())
	}
	return errors.Join(errs...)
}

// PowerOff kills the node's virtual machine at once, like a power failure.
func (c *Cluster) PowerOff(ctx context.Context, node string) error {
	return c.tool(ctx, "power-off", node)
}

// PowerOn starts the node's virtual machine again and returns when its SSH
// server answers.
func (c *Cluster) PowerOn(ctx context.Context, node string) error {
	return c.tool(ctx, "power-on", node)
}

// StopNFS kills the server of the shared volume.
func (c *Cluster) StopNFS(ctx context.Context) error { return c.tool(ctx, "nfs", "stop") }

// StartNFS starts the server of the shared volume and returns when it accepts
// connections.
func (c *Cluster) StartNFS(ctx context.Context) error { return c.tool(ctx, "nfs", "start") }

// VolumeDir is the directory of the shared volume as its server sees it, which
// the nodes' caches cannot hide anything in. It is valid until StopNFS.
func (c *Cluster) VolumeDir(ctx context.Context) (string, error) {
	out, err := c.toolOutput(ctx, "nfs", "dir")
	return strings.TrimSpace(out), err
}

// FillVolume leaves nothing free on the shared volume; FreeVolume takes it back.
func (c *Cluster) FillVolume(ctx context.Context) error { return c.tool(ctx, "volume", "fill") }

// FreeVolume takes back what FillVolume has filled.
func (c *Cluster) FreeVolume(ctx context.Context) error { return c.tool(ctx, "volume", "free") }

// PauseAPI makes the API server stand still until ResumeAPI.
func (c *Cluster) PauseAPI(ctx context.Context) error { return c.tool(ctx, "api", "pause") }

// ResumeAPI lets a paused API server go on.
func (c *Cluster) ResumeAPI(ctx context.Context) error { return c.tool(ctx, "api", "resume") }

// RestartAPI kills the API server, starts it again and returns when it is ready.
func (c *Cluster) RestartAPI(ctx context.Context) error { return c.tool(ctx, "api", "restart") }

// CutAPI cuts a node and its pods off from the API server until HealAPI.
func (c *Cluster) CutAPI(ctx context.Context, node string) error {
	return c.tool(ctx, "api", "cut", node)
}

// HealAPI lets every node reach the API server again.
func (c *Cluster) HealAPI(ctx context.Context) error { return c.tool(ctx, "api", "heal") }

// ReleaseVolume makes the shared volume ready for another claim, after the one
// that had it was deleted: a volume of this kind stays with its claim for good.
// The files on it stay.
func (c *Cluster) ReleaseVolume(ctx context.Context) error {
	patch := `[{"op": "add", "path": "/spec/claimRef", "value": null}]`
	out, err := exec.CommandContext(ctx, "kubectl", "--kubeconfig", c.Kubeconfig(),
		"patch", "persistentvolume", StorageClass, "--type=json", "--patch", patch).CombinedOutput()
	if err != nil {
		return fmt.Errorf("release the volume: %w\n%s", err, out)
	}
	return nil
}

// tool runs the cluster tool on this cluster.
func (c *Cluster) tool(ctx context.Context, args ...string) error {
	_, err := c.toolOutput(ctx, args...)
	return err
}

func (c *Cluster) toolOutput(ctx context.Context, args ...string) (string, error) {
	program := os.Getenv(EnvTool)
	if program == "" {
		return "", fmt.Errorf("%s is not set: run inside the cluster, with \"cluster exec -- COMMAND\"", EnvTool)
	}
	args = append(args, "--name", os.Getenv(EnvName))
	var stdout, stderr strings.Builder
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("cluster %v: %w\n%s", args, err, stderr.String())
	}
	return stdout.String(), nil
}
