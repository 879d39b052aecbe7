// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"context"
	"fmt"
	"os"

	"godwit.dev/godwit/test/cluster/internal/host"
	"godwit.dev/godwit/test/cluster/internal/topology"
)

// createNetwork makes the cluster's namespace with the bridge, the nodes' taps
// and the routes to their pods. Nothing in it is connected to the host's own
// network.
func (c *Cluster) createNetwork(ctx context.Context) error {
	ns := c.Namespace()
	if err := host.Run(ctx, "ip", "netns", "add", string(ns)); err != nil {
		return err
	}
	commands := [][]string{
		{"ip", "link", "set", "lo", "up"},
		{"ip", "link", "add", topology.Bridge, "type", "bridge"},
		{"ip", "addr", "add", fmt.Sprintf("%s/%d", topology.ControlPlaneIP, topology.NetworkBits), "dev", topology.Bridge},
		{"ip", "link", "set", topology.Bridge, "up"},
		// Without a route a connection to a cluster IP fails before kube-proxy's
		// rules can redirect it.
		{"ip", "route", "add", topology.ServiceCIDR, "dev", topology.Bridge},
		// Frames between the nodes are none of the namespace's business: its own
		// kube-proxy's rules must not see them.
		{"sysctl", "-qew", "net.bridge.bridge-nf-call-iptables=0", "net.bridge.bridge-nf-call-ip6tables=0", "net.ipv4.ip_forward=1"},
	}
	for _, n := range topology.Nodes() {
		commands = append(commands,
			[]string{"ip", "tuntap", "add", "dev", n.Tap, "mode", "tap"},
			[]string{"ip", "link", "set", n.Tap, "master", topology.Bridge, "up"},
			[]string{"ip", "route", "add", n.PodCIDR, "via", n.IP})
	}
	for _, args := range commands {
		if err := ns.Run(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}

// deleteNetwork removes the namespace with all that is in it.
func (c *Cluster) deleteNetwork(ctx context.Context) error {
	ns := c.Namespace()
	if ns.Exists() {
		if err := host.Run(ctx, "ip", "netns", "del", string(ns)); err != nil {
			return err
		}
	}
	return os.RemoveAll(ns.ConfigDir())
}
