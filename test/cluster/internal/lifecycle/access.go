// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"fmt"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"godwit.dev/godwit/test/cluster/client"
	"godwit.dev/godwit/test/cluster/internal/topology"
)

// Program returns the path of a Kubernetes host program of a running cluster.
func (c *Cluster) Program(name string) (string, error) {
	s, err := c.loadState()
	if err != nil {
		return "", err
	}
	return filepath.Join(s.Artifacts.Kubernetes, name), nil
}

// Environment is base with what a program inside the cluster's network needs:
// KUBECONFIG, kubectl on the PATH and what the client package looks for. tool
// is the path of the cluster tool.
func (c *Cluster) Environment(base []string, tool string) ([]string, error) {
	s, err := c.loadState()
	if err != nil {
		return nil, err
	}
	set := map[string]string{
		"KUBECONFIG":   c.Kubeconfig(),
		client.EnvDir:  c.Dir(),
		client.EnvName: c.Name,
		client.EnvTool: tool,
		// The host's proxy is not reached from inside.
		"HTTP_PROXY": "", "HTTPS_PROXY": "", "http_proxy": "", "https_proxy": "",
	}
	var env []string
	path := ""
	for _, entry := range base {
		key, value, _ := strings.Cut(entry, "=")
		if key == "PATH" {
			path = value
		} else if _, ours := set[key]; !ours {
			env = append(env, entry)
		}
	}
	for _, key := range sortedKeys(set) {
		if set[key] != "" {
			env = append(env, key+"="+set[key])
		}
	}
	return append(env, "PATH="+s.Artifacts.Kubernetes+":"+path), nil
}

// SSHArgs is the command that logs in to a node, or runs a line of shell there.
func (c *Cluster) SSHArgs(name string, command []string) ([]string, error) {
	n, err := topology.FindNode(name)
	if err != nil {
		return nil, err
	}
	args := []string{
		"ssh", "-F", "none", "-i", c.path("ssh", client.IdentityFile),
		"-o", "UserKnownHostsFile=" + c.path("ssh", client.KnownHostsFile),
		"-o", "StrictHostKeyChecking=yes", "-o", "LogLevel=ERROR",
		"-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=6",
		"root@" + n.IP,
	}
	if len(command) > 0 {
		args = append(args, "--")
	}
	return c.Namespace().Args(append(args, command...)...), nil
}

// Status returns one line per part. The error says why the cluster is not up.
func (c *Cluster) Status() ([]string, error) {
	s, err := c.loadState()
	if err != nil {
		return nil, err
	}
	accelerator := "software emulation"
	if s.KVM {
		accelerator = "KVM"
	}
	lines := []string{
		fmt.Sprintf("cluster    %s, started %s ago, %s", c.Name, time.Since(s.Created).Round(time.Second), accelerator),
		"directory  " + c.Dir(),
		"namespace  " + string(c.Namespace()),
		"kubeconfig " + c.Kubeconfig(),
	}
	for _, part := range sortedKeys(s.Processes) {
		p := s.Processes[part]
		condition := "running"
		if !p.Alive() {
			condition = "ENDED"
		}
		lines = append(lines, fmt.Sprintf("%-24s pid %-8d %-8s %s", part, p.PID, condition, p.Log))
	}
	for _, part := range []string{machinePart(topology.Nodes()[0]), machinePart(topology.Nodes()[1]), nfsPart} {
		if s.Processes[part] == nil {
			lines = append(lines, fmt.Sprintf("%-24s off", part))
		}
	}
	return lines, c.Running()
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
