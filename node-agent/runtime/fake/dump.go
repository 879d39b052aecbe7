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
	"time"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/node-agent/runtime"
)

// Names of the files of the fake's dumps. pages-1.img has one byte for each page
// written, so that images stay small.
const (
	inventoryName = "inventory.img"
	pagesName     = "pages-1.img"
	parentName    = "parent"
	// descriptorsName is runc's file, not CRIU's.
	descriptorsName = "descriptors.json"
	logName         = "dump.log"
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
	if freeze := o.Freeze; freeze != nil {
		err := standReady(o)
		if err != nil {
			return runtime.DumpStats{}, err
		}
		o.Freeze = nil
		if o.Deadline, err = freeze(ctx, standing{&o}); err != nil {
			return runtime.DumpStats{}, err
		}
	}
	ctx = context.WithoutCancel(ctx)
	if !o.Deadline.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, o.Deadline)
		defer cancel()
	}
	return r.dump(ctx, "Dump", k, o)
}

// standReady writes what runc writes before it starts CRIU.
func standReady(o runtime.DumpOptions) error {
	if err := prepareDir(o.ImageDir); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(o.ImageDir, descriptorsName), []byte("[]"), 0o600)
}

// prepareDir makes sure that the directory is there and has nothing of a dump in it.
func prepareDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	have, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range have {
		if e.Name() != descriptorsName {
			return fmt.Errorf("%s is not empty", dir)
		}
	}
	return nil
}

// standing is a dump that waits for the freeze.
type standing struct{ options *runtime.DumpOptions }

func (s standing) Rebase(parent string) error {
	if s.options.Parent == "" {
		return errors.New("a dump without a parent was started, and gets none")
	}
	s.options.Parent = parent
	return nil
}

// Settle waits for the dump that is under way, which Dump of another agent may
// have begun. One that is late is killed: it writes nothing any more.
func (r *Runtime) Settle(ctx context.Context, k runtime.Container, deadline time.Time) error {
	r.mu.Lock()
	r.calls = append(r.calls, Call{Method: "Settle", Container: k.ID})
	ended := r.dumping[k.ID]
	r.mu.Unlock()
	if ended == nil {
		return ctx.Err()
	}
	late := time.NewTimer(time.Until(deadline))
	defer late.Stop()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-late.C:
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.endDump(k.ID, ended)
	if c, ok := r.containers[k.ID]; ok {
		c.tracking = false
	}
	return fmt.Errorf("dump of %s: %w: %w", k.ID, runtime.ErrChainBroken, runtime.ErrGivenUp)
}

// beginDump notes that a dump is under way.
func (r *Runtime) beginDump(id string) chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	ended := make(chan struct{})
	r.dumping[id] = ended
	return ended
}

// endDump notes the end of a dump unless that was done. The lock is held.
func (r *Runtime) endDump(id string, ended chan struct{}) {
	if r.dumping[id] == ended {
		close(ended)
		delete(r.dumping, id)
	}
}

// ErrNotFrozen: Dump was called for a container that runs.
var ErrNotFrozen = errors.New("the container is not frozen")

func (r *Runtime) dump(ctx context.Context, method string, k runtime.Container, o runtime.DumpOptions) (s runtime.DumpStats, err error) {
	final := method == "Dump"
	r.mu.Lock()
	s.Start = r.now() // what its hook takes is a part of it
	r.mu.Unlock()
	killed := r.beginDump(k.ID)
	if err := r.beginUntil(ctx, killed, Call{Method: method, Container: k.ID, Options: o}); err != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.endDump(k.ID, killed)
		if c, ok := r.containers[k.ID]; ok {
			c.tracking = false // as the real one's can be after a failed dump
		}
		if final && errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("dump of %s: %w: %w", k.ID, runtime.ErrChainBroken, runtime.ErrGivenUp)
		}
		return s, err
	}
	defer r.mu.Unlock()
	defer r.endDump(k.ID, killed)
	c, err := r.get(k.ID)
	if err != nil {
		return s, err
	}
	if final && !c.stands() {
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
		if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
			err = fmt.Errorf("%w: %w", runtime.ErrNoSpace, err)
		}
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
		s.Frozen = s.Duration / 20 // the pages are listed, and read when the process runs again
	}
	return s, nil
}

// beginUntil is begin for a dump, which ends with ctx or when it is killed
// however long its hook takes. On nil the lock is held.
func (r *Runtime) beginUntil(ctx context.Context, killed <-chan struct{}, call Call) error {
	begun := make(chan error)
	gone := make(chan struct{})
	defer close(gone)
	go func() {
		err := r.begin(ctx, call)
		select {
		case begun <- err:
		case <-gone:
			if err == nil {
				r.mu.Unlock()
			}
		}
	}()
	select {
	case err := <-begun:
		if err != nil {
			return err
		}
		select {
		case <-killed:
			r.mu.Unlock()
			return runtime.ErrGivenUp
		default:
			return nil
		}
	case <-killed:
		return runtime.ErrGivenUp
	case <-ctx.Done():
		return ctx.Err()
	}
}

// nextDirty is what the process writes while the dump is taken and until the
// next. The lock is held.
func (c *Container) nextDirty() int64 {
	if c.stands() || len(c.perRound) == 0 {
		return 0
	}
	n := c.perRound[0]
	if len(c.perRound) > 1 {
		c.perRound = c.perRound[1:]
	}
	if q := c.limit.Quota; q > 0 {
		n = int64(float64(n) * float64(q) / float64(c.limit.Period)) // as one that uses a whole CPU
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
	if err := errors.Join(prepareDir(o.ImageDir), os.MkdirAll(o.WorkDir, 0o700)); err != nil {
		return 0, err
	}
	if o.Parent != "" {
		if err := os.Symlink(o.Parent, filepath.Join(o.ImageDir, parentName)); err != nil {
			return 0, err
		}
	}
	if err := os.WriteFile(filepath.Join(o.WorkDir, logName), []byte("a log\n"), 0o600); err != nil {
		return 0, err
	}
	pages := bytes.Repeat([]byte{byte(inv.Round)}, int(inv.Written))
	name := filepath.Join(o.ImageDir, pagesName)
	if o.PagesDir != "" {
		to, err := filepath.Rel(o.ImageDir, filepath.Join(o.PagesDir, pagesName))
		if err == nil {
			err = os.Symlink(to, name)
		}
		if err != nil {
			return 0, err
		}
	}
	if err := os.WriteFile(name, pages, 0o600); err != nil {
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
