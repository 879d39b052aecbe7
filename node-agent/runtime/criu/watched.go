// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package criu

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"godwit.dev/godwit/node-agent/runtime"
	"godwit.dev/godwit/node-agent/runtime/watches"
)

// watched are the paths in the container that its processes watch, where CRIU is to
// look for them. It asks the file system first, which an overlay does not answer, and
// which tells of a volume where the inode is on the node, not in the pod. What the
// container watches changes rarely: what was found is only looked at again.
func (r *Runtime) watched(ctx context.Context, c runtime.Container) ([]string, error) {
	pids, err := r.o.Cgroup.Processes(c.CgroupDir)
	if err != nil {
		return nil, err
	}
	list, err := watches.Of(pids)
	if err != nil || len(list) == 0 {
		return nil, err
	}
	root := "/proc/" + strconv.Itoa(c.PID) + "/root"
	known := r.knownWatches(c.ID)
	if slices.ContainsFunc(list, func(w watches.Watch) bool { return !watches.Is(root, known[w], w) }) {
		if known, err = watches.Paths(ctx, root, list); err != nil {
			return nil, fmt.Errorf("find what is watched with inotify: %w", err)
		}
		r.learnWatches(c.ID, known)
	}
	var paths []string
	for _, w := range list {
		if name, ok := known[w]; ok {
			paths = append(paths, name)
		}
	}
	// CRIU goes through everything below each path until it has found an inode.
	slices.SortFunc(paths, func(a, b string) int {
		if d := strings.Count(b, "/") - strings.Count(a, "/"); d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
	return slices.Compact(paths), nil
}

// maxKnown containers have their watches remembered.
const maxKnown = 64

func (r *Runtime) knownWatches(id string) map[watches.Watch]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.watches[id]
}

func (r *Runtime) learnWatches(id string, known map[watches.Watch]string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.watches) >= maxKnown {
		clear(r.watches)
	}
	r.watches[id] = known
}
