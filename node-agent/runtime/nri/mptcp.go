// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package nri

import (
	"errors"
	"fmt"
	"os"

	"github.com/containerd/nri/pkg/api"
	"github.com/vishvananda/netns"

	"godwit.dev/godwit/node-agent/runtime"
	"godwit.dev/godwit/node-agent/runtime/netspace"
)

// mptcpSwitch belongs to the network of whoever opens it.
const mptcpSwitch = "/proc/sys/net/mptcp/enabled"

// withoutMultipathTCP switches Multipath TCP off in the network of a pod that asks for
// it by its label, so that its programs get TCP: Go's servers, for one, try the one and
// take the other. It is done before a container is created, when none has a socket yet;
// to do it again changes nothing. A pod in the node's own network is left alone.
func (p plugin) withoutMultipathTCP(pod *api.PodSandbox) error {
	if pod.GetLabels()[runtime.LabelMultipathTCP] != runtime.MultipathTCPOff || pod.GetPid() == 0 {
		return nil
	}
	node, err := netns.GetFromPid(p.initPID)
	if err != nil {
		return fmt.Errorf("open the node's network: %w", err)
	}
	defer node.Close()
	of, err := netns.GetFromPid(int(pod.GetPid()))
	if err != nil {
		return fmt.Errorf("open the pod's network: %w", err)
	}
	defer of.Close()
	if of.Equal(node) {
		return nil
	}
	return netspace.Do(int(of), func() error {
		err := os.WriteFile(mptcpSwitch, []byte("0"), 0)
		if errors.Is(err, os.ErrNotExist) {
			return nil // this kernel has none
		}
		return err
	})
}
