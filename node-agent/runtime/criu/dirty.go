// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package criu

import (
	"context"
	"fmt"

	"godwit.dev/godwit/node-agent/runtime"
	"godwit.dev/godwit/node-agent/runtime/memory"
)

// DirtyBytes counts the pages that were written since the last dump, over all
// processes of the container, by the soft-dirty bits, which it does not clear.
// Shared memory that several processes map counts once.
func (r *Runtime) DirtyBytes(ctx context.Context, c runtime.Container) (int64, error) {
	if err := memory.Tracking(); err != nil {
		return 0, err
	}
	pids, err := r.o.Cgroup.Processes(c.CgroupDir)
	if err != nil {
		return 0, err
	}
	if len(pids) == 0 {
		return 0, fmt.Errorf("%w: %s has no processes", runtime.ErrNotFound, c.ID)
	}
	n, err := memory.Of(ctx, pids, memory.Dirty)
	return n.Private + n.Shared, err
}
