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
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/procfs"

	"godwit.dev/godwit/node-agent/runtime"
	"godwit.dev/godwit/node-agent/runtime/cgroup"
	"godwit.dev/godwit/node-agent/runtime/host"
	"godwit.dev/godwit/node-agent/runtime/memory"
	"godwit.dev/godwit/node-agent/runtime/watches"
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
	if in.SysVIPC, err = sysvObjects(c.PID); err != nil && !memory.Gone(err) {
		return in, err
	}
	if g.unix {
		peers, err := foreignPeers(c.PID, g.sockets)
		if err != nil && !memory.Gone(err) {
			return in, err
		}
		in.ForeignUnixPeers = append(in.ForeignUnixPeers, peers...)
	}
	if in.LostWatches, err = lostWatches(ctx, c.PID, pids); err != nil {
		return in, err
	}
	if in.Namespaces, err = nested(c.PID, pids); err != nil {
		return in, err
	}
	for _, list := range []*[]string{
		&in.MultipathTCP, &in.UnsupportedSockets, &in.BoundAddresses, &in.Devices, &in.Descriptors, &in.DeletedFiles,
		&in.ForeignFiles, &in.VolumeFiles, &in.Nameless,
	} {
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

// lostWatches are what the processes watch that cannot be found from the root of the
// container. CRIU restores a watch by its path.
func lostWatches(ctx context.Context, init int, pids []int) ([]string, error) {
	list, err := watches.Of(pids)
	if err != nil || len(list) == 0 {
		return nil, err
	}
	paths, err := watches.Paths(ctx, "/proc/"+strconv.Itoa(init)+"/root", list)
	if err != nil {
		return nil, fmt.Errorf("find what is watched with inotify: %w", err)
	}
	var lost []string
	for _, w := range list {
		if _, ok := paths[w]; !ok {
			lost = append(lost, w.String())
		}
	}
	return lost, nil
}

// gatherer collects facts over the processes of a container.
type gatherer struct {
	in       *runtime.Inspection
	sockets  map[uint64]bool // inodes of the sockets that were looked at
	unix     bool            // there is a Unix socket among them
	objects  map[string]bool // that were noted in Nameless
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
	if dir, err := os.Readlink("/proc/" + strconv.Itoa(pid) + "/cwd"); err == nil {
		g.versioned(dir)
	} else if !memory.Gone(err) {
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
		g.nameless(m)
		name := strings.TrimSuffix(m.Pathname, " (deleted)")
		switch {
		case name == "/anon_hugepage":
			g.in.HugePages = true
		case mappedDevice(m.Pathname):
			g.in.Devices = append(g.in.Devices, name)
		case strings.HasPrefix(name, "/secretmem"):
			g.in.Descriptors = append(g.in.Descriptors, "secretmem")
		case strings.HasPrefix(name, "anon_inode:") && name != "anon_inode:[io_uring]":
			g.in.Descriptors = append(g.in.Descriptors, strings.TrimPrefix(name, "anon_inode:"))
		case name != m.Pathname && !kernelsOwn(m.Pathname):
			link := fmt.Sprintf("/proc/%d/map_files/%x-%x", p.PID, m.StartAddr, m.EndAddr)
			if err := g.file(link, m.Pathname); err != nil && !memory.Gone(err) {
				return err
			}
		}
		g.versioned(name)
	}
	return nil
}

// version is the directory in which kubelet puts the files of a ConfigMap, a Secret or the
// like: a time and a random number (AtomicWriter in pkg/volume/util of Kubernetes).
var version = regexp.MustCompile(`/\.\.\d{4}_\d\d_\d\d_\d\d_\d\d_\d\d\.\d+(/|$)`)

// versioned notes a file that has another name on every node.
func (g *gatherer) versioned(name string) {
	if version.MatchString(name) {
		g.in.VolumeFiles = append(g.in.VolumeFiles, name)
	}
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
