// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package inspect

import (
	"fmt"
	"os"
	"slices"

	"godwit.dev/godwit/node-agent/runtime/memory"
)

// flat are the kinds of namespaces that all processes of a container have to share for
// CRIU to dump them (criu/namespaces.c, generate_ns_id): those of mounts and networks
// may be others.
var flat = []string{"cgroup", "ipc", "pid", "time", "user", "uts"}

// nested are the kinds of namespaces that a process has and the container's first does
// not.
func nested(init int, pids []int) ([]string, error) {
	var found []string
	for _, kind := range flat {
		want, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", init, kind))
		if memory.Gone(err) {
			continue // the container has ended, or the kernel has no such thing
		}
		if err != nil {
			return nil, err
		}
		for _, pid := range pids {
			is, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
			if err == nil && is != want && !slices.Contains(found, kind) {
				found = append(found, kind)
			}
		}
	}
	return found, nil
}
