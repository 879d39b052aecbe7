// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package criu

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"

	"godwit.dev/godwit/node-agent/runtime"
)

// DirtyBytes counts the pages that were written since the last dump, over all
// processes of the container, by the soft-dirty bits, which it does not clear.
// Shared memory that several processes map counts once.
func (r *Runtime) DirtyBytes(ctx context.Context, c runtime.Container) (int64, error) {
	pids, err := r.o.Cgroup.Processes(c.CgroupDir)
	if err != nil {
		return 0, err
	}
	if len(pids) == 0 {
		return 0, fmt.Errorf("%w: %s has no processes", runtime.ErrNotFound, c.ID)
	}
	if _, err := softDirty(); err != nil {
		return 0, err
	}
	var private int64
	shared := map[object][]span{}
	for _, pid := range pids {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		n, err := dirtyOf(pid, shared)
		if processGone(err) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("count the dirty pages of process %d: %w", pid, err)
		}
		private += n
	}
	for _, spans := range shared {
		private += union(spans)
	}
	return private, nil
}

// processGone says whether an error means that a process has ended.
func processGone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH)
}

// object is a piece of shared memory.
type object struct {
	dev, ino uint64
}

// span is a range of bytes.
type span struct{ start, end uint64 }

// union is the number of bytes that a set of ranges covers.
func union(spans []span) int64 {
	slices.SortFunc(spans, func(a, b span) int {
		switch {
		case a.start < b.start:
			return -1
		case a.start > b.start:
			return 1
		}
		return 0
	})
	var n int64
	var covered uint64
	for _, s := range spans {
		start := max(s.start, covered)
		if s.end > start {
			n += int64(s.end - start)
			covered = s.end
		}
	}
	return n
}

// dirtyOf counts the private dirty bytes of a process and collects its dirty
// shared memory as ranges of the shared object.
func dirtyOf(pid int, shared map[object][]span) (int64, error) {
	p, err := procfs.NewProc(pid)
	if err != nil {
		return 0, err
	}
	maps, err := p.ProcMaps()
	if err != nil {
		return 0, err
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/pagemap", pid))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	scan := newScanner(f)
	var private int64
	for _, m := range maps {
		kind := kindOf(m)
		if kind == notDumped {
			continue
		}
		obj := object{uint64(m.Dev), m.Inode}
		err := scan.dirty(uint64(m.StartAddr), uint64(m.EndAddr), kind == privateMemory, func(s span) {
			if kind == privateMemory {
				private += int64(s.end - s.start)
				return
			}
			base := uint64(m.StartAddr) - uint64(m.Offset)
			shared[obj] = append(shared[obj], span{s.start - base, s.end - base})
		})
		if err != nil {
			return 0, err
		}
	}
	return private, nil
}

type mapKind int

const (
	notDumped mapKind = iota
	privateMemory
	sharedMemory
)

// kindOf says what CRIU does with a mapping: the kernel's own are never dumped,
// pages of shared files belong to the file.
func kindOf(m *procfs.ProcMap) mapKind {
	switch {
	case m.Pathname == "[vvar]", m.Pathname == "[vdso]", m.Pathname == "[vsyscall]",
		strings.HasPrefix(m.Pathname, "[vvar_"):
		return notDumped
	case m.Perms.Private:
		return privateMemory
	case IsSharedMemory(m.Pathname):
		return sharedMemory
	}
	return notDumped
}

// IsSharedMemory says whether a shared mapping's name in /proc/PID/maps is that
// of memory rather than of a file: shared anonymous memory, SysV segments and
// memfds.
func IsSharedMemory(name string) bool {
	return name == "/dev/zero (deleted)" || strings.HasPrefix(name, "/SYSV") ||
		strings.HasPrefix(name, "/memfd:") || strings.HasPrefix(name, "[anon_shmem:")
}
