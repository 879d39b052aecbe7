// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package fake

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"godwit.dev/godwit/node-agent/runtime"
)

// Container is a container of the fake. Its methods are safe for concurrent use.
type Container struct {
	mu   *sync.Mutex
	info runtime.Container

	count    uint64 // goes up by one with each Tick of a running process
	pages    int64  // memory in pages
	dirty    int64  // pages written since the last dump
	perRound []int64
	tracking bool
	round    uint64 // number of dumps so far

	frozen    bool
	podFrozen bool
	isolated  bool
	killed    bool
	limit     runtime.CPULimit
	signals   []int

	files      map[string]string // differences of the root file system
	inspection runtime.Inspection
}

// ContainerOptions describe a container to add.
type ContainerOptions struct {
	// Info identifies it. ID, Name and PodUID are needed; empty fields get values.
	Info runtime.Container
	// MemoryBytes is its memory. Default 1 MiB.
	MemoryBytes int64
	// DirtyBytes are what the process writes after each dump, one value a dump;
	// the last is repeated. Default: nothing.
	DirtyBytes []int64
	// Files are the differences of its root file system, name to content.
	Files map[string]string
	// Inspection is what Inspect returns.
	Inspection runtime.Inspection
}

// Add starts a container.
func (r *Runtime) Add(o ContainerOptions) *Container {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := len(r.containers) + 1
	def := func(s *string, format string) {
		if *s == "" {
			*s = fmt.Sprintf(format, o.Info.ID)
		}
	}
	def(&o.Info.SandboxID, "sandbox-of-%s")
	def(&o.Info.Bundle, "/run/fake/bundle/%s")
	def(&o.Info.CgroupDir, "/sys/fs/cgroup/fake/%s")
	def(&o.Info.UpperDir, "/var/lib/fake/%s/fs")
	def(&o.Info.Image, "registry.example/%s:1")
	if o.Info.ImageDigest == "" {
		o.Info.ImageDigest = "sha256:" + strings.Repeat("0", 63) + "1"
	}
	if o.Info.PID == 0 {
		o.Info.PID = 1000 + n
	}
	if o.MemoryBytes == 0 {
		o.MemoryBytes = 1 << 20
	}
	c := &Container{
		mu:         &r.mu,
		info:       o.Info,
		pages:      pagesOf(o.MemoryBytes),
		perRound:   slices.Clone(o.DirtyBytes),
		files:      maps.Clone(o.Files),
		inspection: o.Inspection,
		limit:      runtime.CPULimit{Period: 100 * time.Millisecond},
	}
	c.dirty = c.pages
	r.containers[o.Info.ID] = c
	r.images[o.Info.Image] = true
	return c
}

// Remove makes a container disappear, as its deletion by kubelet does.
func (r *Runtime) Remove(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.containers, id)
}

func pagesOf(bytes int64) int64 { return (bytes + PageSize - 1) / PageSize }

// Info is what Finder returns for it.
func (c *Container) Info() runtime.Container { return c.info }

// Tick lets the process do one step. A frozen or killed one does nothing, and
// Tick says so.
func (c *Container) Tick() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stands() || c.killed {
		return false
	}
	c.count++
	c.dirty = min(c.pages, c.dirty+1)
	return true
}

// Write dirties memory; a frozen or killed process cannot.
func (c *Container) Write(bytes int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stands() || c.killed {
		return false
	}
	c.dirty = min(c.pages, c.dirty+pagesOf(bytes))
	return true
}

// Count is how many steps the process has done.
func (c *Container) Count() uint64 { return get(c, func() uint64 { return c.count }) }

// ThawOwn thaws it as runc does, which a hold withstands.
func (c *Container) ThawOwn() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.frozen = false
}

// stands says whether it is frozen, by itself or with its pod.
func (c *Container) stands() bool { return c.frozen || c.podFrozen }

// IsFrozen, IsIsolated and IsKilled tell the state.
func (c *Container) IsFrozen() bool { return get(c, c.stands) }

// IsIsolated says whether the pod is cut off the network.
func (c *Container) IsIsolated() bool { return get(c, func() bool { return c.isolated }) }

// IsKilled says whether Kill ended it.
func (c *Container) IsKilled() bool { return get(c, func() bool { return c.killed }) }

// Limit is the limit of the CPU time.
func (c *Container) Limit() runtime.CPULimit {
	return get(c, func() runtime.CPULimit { return c.limit })
}

// Signals are the signals it was sent.
func (c *Container) Signals() []int {
	return get(c, func() []int { return slices.Clone(c.signals) })
}

// SetMemory changes the size of its memory, and what it writes after each dump.
func (c *Container) SetMemory(bytes int64, perRound ...int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pages, c.perRound = pagesOf(bytes), perRound
	c.dirty = c.pages
}

// SetFile changes a file of the root file system.
func (c *Container) SetFile(name, content string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.files == nil {
		c.files = map[string]string{}
	}
	c.files[name] = content
}

// SetInspection sets what Inspect returns.
func (c *Container) SetInspection(i runtime.Inspection) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.inspection = i
}

func get[T any](c *Container, f func() T) T {
	c.mu.Lock()
	defer c.mu.Unlock()
	return f()
}

// Containers returns the running containers of a pod.
func (r *Runtime) Containers(ctx context.Context, podUID string) ([]runtime.Container, error) {
	if err := r.begin(ctx, Call{Method: "Containers"}); err != nil {
		return nil, err
	}
	defer r.mu.Unlock()
	var found []runtime.Container
	for _, c := range r.containers {
		if c.info.PodUID == podUID && !c.killed {
			found = append(found, c.info)
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%w: pod %s", runtime.ErrNotFound, podUID)
	}
	slices.SortFunc(found, func(a, b runtime.Container) int { return strings.Compare(a.Name, b.Name) })
	return found, nil
}

// Container returns a running container.
func (r *Runtime) Container(ctx context.Context, id string) (runtime.Container, error) {
	if err := r.begin(ctx, Call{Method: "Container", Container: id}); err != nil {
		return runtime.Container{}, err
	}
	defer r.mu.Unlock()
	c, err := r.get(id)
	if err != nil {
		return runtime.Container{}, err
	}
	return c.info, nil
}

// HasImage knows the images of containers that were added, and those of AddImage.
func (r *Runtime) HasImage(ctx context.Context, ref string) (bool, error) {
	if err := r.begin(ctx, Call{Method: "HasImage"}); err != nil {
		return false, err
	}
	defer r.mu.Unlock()
	return r.images[ref], nil
}

// Inspect returns what was set.
func (r *Runtime) Inspect(ctx context.Context, k runtime.Container) (runtime.Inspection, error) {
	if err := r.begin(ctx, Call{Method: "Inspect", Container: k.ID}); err != nil {
		return runtime.Inspection{}, err
	}
	defer r.mu.Unlock()
	c, err := r.get(k.ID)
	if err != nil {
		return runtime.Inspection{}, err
	}
	i := c.inspection
	i.Processes = max(i.Processes, 1)
	if i.ResidentBytes == 0 {
		i.ResidentBytes = c.pages * PageSize
	}
	return i, nil
}
