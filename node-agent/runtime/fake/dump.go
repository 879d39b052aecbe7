// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package fake

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"

	"godwit.dev/godwit/node-agent/runtime"
)

// Names of the files of the fake's dumps. pages-1.img has one byte for each page
// written, so that images stay small.
const (
	inventoryName = "inventory.img"
	pagesName     = "pages-1.img"
	parentName    = "parent"
	rootfsName    = "rootfs.tar"
)

// Inventory is what the fake writes into inventory.img (as JSON).
type Inventory struct {
	// ContainerID that was dumped.
	ContainerID string `json:"containerID"`
	// Round counts the dumps of this container from 1.
	Round uint64 `json:"round"`
	// Count is the process's counter at the dump; only a final one is exact.
	Count uint64 `json:"count"`
	// Final tells a Dump from a PreDump.
	Final bool `json:"final"`
	// Tracked: another dump can build on this one.
	Tracked bool `json:"tracked"`
	// Pages of memory the process has, Written those in this dump.
	Pages   int64 `json:"pages"`
	Written int64 `json:"written"`
}

// ReadInventory reads the inventory of a dump.
func ReadInventory(dir string) (Inventory, error) {
	var i Inventory
	b, err := os.ReadFile(filepath.Join(dir, inventoryName))
	if err != nil {
		return i, err
	}
	return i, json.Unmarshal(b, &i)
}

// PreDump writes the memory that changed.
func (r *Runtime) PreDump(ctx context.Context, k runtime.Container, o runtime.DumpOptions) (runtime.DumpStats, error) {
	if err := ctx.Err(); err != nil {
		return runtime.DumpStats{}, err
	}
	return r.dump(ctx, "PreDump", k, o)
}

// Dump writes the final image of a frozen container.
func (r *Runtime) Dump(ctx context.Context, k runtime.Container, o runtime.DumpOptions) (runtime.DumpStats, error) {
	if err := ctx.Err(); err != nil {
		return runtime.DumpStats{}, err
	}
	return r.dump(context.WithoutCancel(ctx), "Dump", k, o)
}

// ErrNotFrozen: Dump was called for a container that runs.
var ErrNotFrozen = errors.New("the container is not frozen")

func (r *Runtime) dump(ctx context.Context, method string, k runtime.Container, o runtime.DumpOptions) (s runtime.DumpStats, err error) {
	final := method == "Dump"
	if err := r.begin(ctx, Call{Method: method, Container: k.ID, Options: o}); err != nil {
		r.breakTracking(k.ID)
		return s, err
	}
	defer r.mu.Unlock()
	s.Start = r.now()
	c, err := r.get(k.ID)
	if err != nil {
		return s, err
	}
	if final && !c.frozen {
		return s, fmt.Errorf("dump of %s: %w", k.ID, ErrNotFrozen)
	}
	if err := checkParent(c, o); err != nil {
		return s, err
	}
	written := c.pages
	if o.Parent != "" {
		written = c.dirty
	}
	inv := Inventory{
		ContainerID: k.ID, Round: c.round + 1, Count: c.count, Final: final,
		Tracked: !final || o.Track || o.Parent != "", Pages: c.pages, Written: written,
	}
	if s.Bytes, err = writeImages(o, inv); err != nil {
		c.tracking = false
		return s, fmt.Errorf("%s of %s: %w: %w", method, k.ID, runtime.ErrChainBroken, err)
	}
	c.round++
	c.tracking = inv.Tracked
	s.PagesScanned, s.PagesWritten, s.PagesSkipped = c.pages, written, c.pages-written
	s.MemoryBytes = written * PageSize
	c.dirty = 0
	if !final {
		c.dirty = c.nextDirty()
	}
	s.Duration = r.now().Sub(s.Start)
	if !final {
		s.Frozen = s.Duration
	}
	return s, nil
}

// breakTracking makes a chain impossible to continue after a failed dump, as
// the real one can be.
func (r *Runtime) breakTracking(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c, ok := r.containers[id]; ok {
		c.tracking = false
	}
}

// nextDirty is what the process writes while the dump is taken and until the
// next. The lock is held.
func (c *Container) nextDirty() int64 {
	if c.frozen || len(c.perRound) == 0 {
		return 0
	}
	n := c.perRound[0]
	if len(c.perRound) > 1 {
		c.perRound = c.perRound[1:]
	}
	return min(c.pages, pagesOf(n))
}

// checkParent refuses a parent that this dump cannot build on.
func checkParent(c *Container, o runtime.DumpOptions) error {
	if o.Parent == "" {
		return nil
	}
	if dir, base := path.Split(o.Parent); dir != "../" || base == "" || base == ".." {
		return fmt.Errorf("parent %q is not a sibling of the image directory", o.Parent)
	}
	inv, err := ReadInventory(filepath.Join(o.ImageDir, o.Parent))
	if err != nil {
		return fmt.Errorf("parent %q: %w", o.Parent, err)
	}
	if !c.tracking || inv.Round != c.round || inv.ContainerID != c.info.ID {
		return fmt.Errorf("%w: round %d of %s is not the last dump", runtime.ErrChainBroken, inv.Round, inv.ContainerID)
	}
	return nil
}

// writeImages writes a dump and returns its size.
func writeImages(o runtime.DumpOptions, inv Inventory) (int64, error) {
	for _, dir := range []string{o.ImageDir, o.WorkDir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return 0, err
		}
	}
	have, err := os.ReadDir(o.ImageDir)
	if err != nil {
		return 0, err
	}
	if len(have) > 0 {
		return 0, fmt.Errorf("%s is not empty", o.ImageDir)
	}
	if o.Parent != "" {
		if err := os.Symlink(o.Parent, filepath.Join(o.ImageDir, parentName)); err != nil {
			return 0, err
		}
	}
	pages := bytes.Repeat([]byte{byte(inv.Round)}, int(inv.Written))
	if err := os.WriteFile(filepath.Join(o.ImageDir, pagesName), pages, 0o600); err != nil {
		return 0, err
	}
	b, err := json.Marshal(inv)
	if err != nil {
		return 0, err
	}
	if err := os.WriteFile(filepath.Join(o.ImageDir, inventoryName), b, 0o600); err != nil {
		return 0, err
	}
	return int64(len(pages) + len(b)), nil
}
