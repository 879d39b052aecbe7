// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Package memory counts the memory of processes that a dump has to carry, by
// the kernel's page maps, without touching the tracking of dirty pages.
package memory

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
)

// Which pages to count.
type Which int

const (
	// Present are the pages that exist, in memory or swapped out.
	Present Which = iota
	// Dirty are those of them that were written since the tracking was reset.
	Dirty
)

// Count is memory in bytes.
type Count struct {
	// Private is the processes' own memory; Shared is memory that several
	// mappings can share (shared anonymous memory, SysV segments, memfds), each
	// page of it counted once.
	Private, Shared int64
}

// Of counts the memory of a set of processes. Processes that have ended
// meanwhile count nothing.
func Of(ctx context.Context, pids []int, which Which) (Count, error) {
	var c Count
	shared := map[object][]span{}
	for _, pid := range pids {
		if err := ctx.Err(); err != nil {
			return c, err
		}
		n, err := private(pid, which, shared)
		if Gone(err) {
			continue
		}
		if err != nil {
			return c, fmt.Errorf("count the pages of process %d: %w", pid, err)
		}
		c.Private += n
	}
	for _, spans := range shared {
		c.Shared += union(spans)
	}
	return c, nil
}

// Gone says whether an error means that a process has ended.
func Gone(err error) bool {
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

// private counts the private bytes of a process and collects its shared memory
// as ranges of the shared object.
func private(pid int, which Which, shared map[object][]span) (int64, error) {
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
	scan := newScanner(f, which)
	var bytes int64
	for _, m := range maps {
		kind := kindOf(m)
		if kind == notDumped {
			continue
		}
		obj := object{m.Dev, m.Inode}
		err := scan.pages(uint64(m.StartAddr), uint64(m.EndAddr), kind == privateMemory, func(s span) {
			if kind == privateMemory {
				bytes += int64(s.end - s.start)
				return
			}
			base := uint64(m.StartAddr) - uint64(m.Offset)
			shared[obj] = append(shared[obj], span{s.start - base, s.end - base})
		})
		if err != nil {
			return 0, err
		}
	}
	return bytes, nil
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
	case isShared(m.Pathname):
		return sharedMemory
	}
	return notDumped
}

// isShared says whether a shared mapping's name in /proc/PID/maps is that
// of memory rather than of a file: shared anonymous memory, SysV segments and
// memfds.
func isShared(name string) bool {
	return name == "/dev/zero (deleted)" || strings.HasPrefix(name, "/SYSV") ||
		strings.HasPrefix(name, "/memfd:") || strings.HasPrefix(name, "[anon_shmem:")
}
