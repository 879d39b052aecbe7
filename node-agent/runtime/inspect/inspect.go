// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Package inspect looks at the processes of a container for what would keep
// CRIU from dumping or restoring them. It changes nothing in them.
package inspect

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/procfs"

	"godwit.dev/godwit/node-agent/runtime"
	"godwit.dev/godwit/node-agent/runtime/cgroup"
	"godwit.dev/godwit/node-agent/runtime/host"
	"godwit.dev/godwit/node-agent/runtime/memory"
)

// Options configure an Inspector. Only Host is required.
type Options struct {
	// Host is the node.
	Host *host.Host
	// Cgroup lists processes; default cgroup.New with its defaults.
	Cgroup *cgroup.Control
}

// Inspector implements runtime.Inspector.
type Inspector struct{ o Options }

var _ runtime.Inspector = (*Inspector)(nil)

// New returns an Inspector.
func New(o Options) *Inspector {
	if o.Cgroup == nil {
		o.Cgroup = cgroup.New(cgroup.Options{Host: o.Host})
	}
	return &Inspector{o}
}

// Inspect looks at every process in the container's cgroup. Processes that end
// meanwhile are left out.
func (i *Inspector) Inspect(ctx context.Context, c runtime.Container) (runtime.Inspection, error) {
	var in runtime.Inspection
	pids, err := i.o.Cgroup.Processes(c.CgroupDir)
	if err != nil {
		return in, err
	}
	if len(pids) == 0 {
		return in, fmt.Errorf("%w: %s has no processes", runtime.ErrNotFound, c.ID)
	}
	g := gatherer{sockets: map[uint64]bool{}, parents: map[int]int{}, in: &in}
	for _, pid := range pids {
		if err := ctx.Err(); err != nil {
			return in, err
		}
		if err := g.process(pid); err != nil && !memory.Gone(err) {
			return in, fmt.Errorf("inspect process %d of %s: %w", pid, c.ID, err)
		}
	}
	in.Processes = len(g.parents)
	in.ExecSessions = entered(g.parents, c.PID)
	if in.ResidentBytes, err = i.resident(c, g.resident); err != nil {
		return in, err
	}
	n, err := memory.Of(ctx, pids, memory.Present)
	if err != nil {
		return in, err
	}
	in.SharedBytes = n.Shared
	for _, list := range []*[]string{&in.MultipathTCP, &in.UnsupportedSockets, &in.BoundAddresses, &in.Devices} {
		slices.Sort(*list)
		*list = slices.Compact(*list)
	}
	return in, nil
}

// resident is the memory of the container. The cgroup's own figure counts
// memory that processes share once; the sum of their resident sizes is for
// nodes without the memory controller.
func (i *Inspector) resident(c runtime.Container, sum int64) (int64, error) {
	b, err := i.o.Host.ReadFile(path.Join(c.CgroupDir, "memory.stat"))
	if errors.Is(err, os.ErrNotExist) {
		return sum, nil
	}
	if err != nil {
		return 0, err
	}
	var n int64
	for line := range strings.Lines(string(b)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if key == "anon" || key == "shmem" {
			v, err := strconv.ParseInt(value, 10, 64)
			if err != nil {
				return 0, fmt.Errorf("memory.stat: %w", err)
			}
			n += v
		}
	}
	return n, nil
}

// gatherer collects facts over the processes of a container.
type gatherer struct {
	in       *runtime.Inspection
	sockets  map[uint64]bool // inodes of the sockets that were looked at
	parents  map[int]int     // process to parent
	resident int64
}

// process looks at one process.
func (g *gatherer) process(pid int) error {
	p, err := procfs.NewProc(pid)
	if err != nil {
		return err
	}
	st, err := p.Stat()
	if err != nil {
		return err
	}
	g.parents[pid] = st.PPID
	g.in.Terminal = g.in.Terminal || st.TTY != 0
	g.resident += int64(st.ResidentMemory())
	if err := g.status(pid); err != nil {
		return err
	}
	if err := g.mappings(p); err != nil {
		return err
	}
	return g.descriptors(pid)
}

// status reads the lines of /proc/PID/status that nothing else tells.
func (g *gatherer) status(pid int) error {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return err
	}
	tracer, huge := parseStatus(string(b))
	g.in.Traced = g.in.Traced || tracer
	g.in.HugePages = g.in.HugePages || huge
	return nil
}

func parseStatus(status string) (traced, huge bool) {
	for line := range strings.Lines(status) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		switch value = strings.TrimSpace(value); key {
		case "TracerPid":
			traced = value != "0"
		case "HugetlbPages":
			huge = value != "0 kB"
		}
	}
	return traced, huge
}

// mappings looks for huge pages that were reserved but not touched, and for
// mapped devices.
func (g *gatherer) mappings(p procfs.Proc) error {
	maps, err := p.ProcMaps()
	if err != nil {
		return err
	}
	for _, m := range maps {
		name := strings.TrimSuffix(m.Pathname, " (deleted)")
		switch {
		case name == "/anon_hugepage":
			g.in.HugePages = true
		case mappedDevice(m.Pathname):
			g.in.Devices = append(g.in.Devices, name)
		}
	}
	return nil
}

// mappedDevice says whether a mapping's name is that of a device. Shared
// anonymous memory is called "/dev/zero (deleted)".
func mappedDevice(name string) bool {
	return strings.HasPrefix(name, "/dev/") && !strings.HasPrefix(name, "/dev/zero") &&
		!strings.HasPrefix(name, "/dev/shm/") && !strings.HasPrefix(name, "/dev/mqueue/") &&
		!strings.HasPrefix(name, "/dev/hugepages/")
}

// entered counts the processes that came into the container from outside: their
// parent is neither in the container nor that of its init process. Orphans of
// such a process become children of init and are dumped like its own.
func entered(parents map[int]int, init int) int {
	n := 0
	for pid, parent := range parents {
		if _, inside := parents[parent]; pid != init && !inside {
			n++
		}
	}
	return n
}
