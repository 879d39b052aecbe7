// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"slices"
	"strings"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/node-agent/runtime"
)

// sharedRefusals are reasons that lie between the containers of a pod. Each container
// is dumped by itself: what two of them have in common would be dumped and restored
// with both, and they would have one each, or the second restore would find it there.
// What has a name in a file system that they share, such as a file in /dev/shm, is found
// again by it.
func sharedRefusals(c checked) []v1alpha1.Failure {
	var out []v1alpha1.Failure
	add := func(container, reason, format string, args ...any) {
		f := refusal(reason, format, args...)
		f.Container = container
		out = append(out, f)
	}
	owner := map[string]string{}
	for i, k := range c.containers {
		in := c.inspections[k.Name]
		if tied := untied(in.ForeignUnixPeers); len(tied) > 0 {
			add(k.Name, v1alpha1.ReasonForeignUnixPeer,
				"Unix sockets of container %q are connected to a process outside of it (%s), and a container is dumped by itself; let it close the connection for the migration, or talk over TCP",
				k.Name, strings.Join(tied, ", "))
		}
		if len(c.containers) > 1 && i == 0 && in.SysVIPC {
			add("", v1alpha1.ReasonSharedWithContainer,
				"there is shared memory, a semaphore or a message queue of System V IPC in the pod (see ipcs), which all of its containers see, and each would bring it along; use a file in /dev/shm, or one container")
		}
		for _, object := range in.Nameless {
			if other := owner[object]; other != "" {
				add(k.Name, v1alpha1.ReasonSharedWithContainer,
					"containers %q and %q share %s, which no name leads to, and each would get its own; use a file in /dev/shm, or a named pipe",
					other, k.Name, object)
				continue
			}
			owner[object] = k.Name
		}
	}
	return out
}

// untied are the names of Unix sockets whose other end is elsewhere, but for those of
// connections with the pod's other containers: these are ended in the freeze, like
// connections over TCP.
func untied(peers []runtime.UnixPeer) []string {
	var names []string
	for _, p := range peers {
		if !p.Stream || !p.InPod {
			names = append(names, p.Name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
