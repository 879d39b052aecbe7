// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package images

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"

	"godwit.dev/godwit/node-agent/images/pagemap"
)

// intake is one dump that is taken in while its files are read: the lists of memory
// first, then the pages, which go where the lists say. That it fails is no reason not to
// read on.
type intake struct {
	merge *merge
	// dir takes the files that are not merged.
	dir   string
	final bool

	// Set by plan.
	planned bool
	tasks   map[string]*task // by the name of the file with the pages

	mu    sync.Mutex
	cause error
}

// task is a process whose memory is merged.
type task struct {
	id   uint64
	list *pagemap.Map
	plan *pagemap.Plan
	// base and extra are the files with the merged memory; without any yet, all is extra.
	base, extra *os.File
}

func isList(name string) bool { return strings.HasPrefix(name, pagemapPrefix) }

// plan is called when all lists have been taken in.
func (in *intake) plan() {
	if in == nil || in.err() != nil {
		return
	}
	m := in.merge
	m.mu.Lock()
	defer m.mu.Unlock()
	in.planned, in.tasks = true, map[string]*task{}
	err := in.unpack()
	entries, rerr := os.ReadDir(in.dir)
	err = errors.Join(err, rerr)
	for _, e := range entries {
		if err == nil && isList(e.Name()) {
			err = in.planOne(e.Name())
		}
	}
	if err == nil && len(in.tasks) == 0 && !in.final {
		err = errors.New("there are no lists of memory in the round")
	}
	in.fail(err)
}

// unpack unpacks what was packed of a final dump, if anything was.
func (in *intake) unpack() error {
	name := filepath.Join(in.dir, packName)
	f, err := os.Open(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	}
	defer f.Close()
	if err := unpack(f, in.dir); err != nil {
		return err
	}
	return os.Remove(name)
}

func (in *intake) planOne(name string) error {
	m := in.merge
	list, err := readMap(in.dir, name)
	if err != nil {
		return err
	}
	id, isTask := taskOf(name)
	switch {
	case !isTask && list.OnParent():
		return fmt.Errorf("%s builds on an earlier dump", name)
	case !isTask, in.final && !list.OnParent():
		return nil // it is taken as it is
	}
	t := &task{id: id, list: list}
	if t.plan, err = list.On(m.tasks[id]); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	pages := pagesName(uint64(list.PagesID))
	if in.tasks[pages] != nil {
		return fmt.Errorf("%w: two processes in one file", pagemap.ErrMap)
	}
	if err := m.makeWay(t); err != nil {
		return fmt.Errorf("%s: %w", name, errors.Join(err, t.close()))
	}
	in.tasks[pages] = t
	return nil
}

// file returns what takes a file in, nil when nothing does.
func (in *intake) file(name string, size int64) *taken {
	if in == nil || in.err() != nil {
		return nil
	}
	if t := in.tasks[name]; t != nil {
		if size != t.plan.FreshBytes {
			in.fail(fmt.Errorf("%w: %s has %d bytes, not %d", pagemap.ErrMap, name, size, t.plan.FreshBytes))
			return nil
		}
		return &taken{in: in, f: t.extra, base: t.base, moves: t.plan.Fresh}
	}
	if !in.final && !isList(name) {
		return nil
	}
	var err error
	if size > pieceSize { // the others are few, and there is always so much room
		err = in.merge.store.room(size)
	}
	if err == nil {
		var f *os.File
		if f, err = os.OpenFile(filepath.Join(in.dir, name), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600); err == nil {
			return &taken{in: in, f: f, plain: true}
		}
	}
	in.fail(err)
	return nil
}

// done ends it, with an error when the dump could not be read as a whole.
func (in *intake) done(k int, cause error) {
	if in == nil {
		return
	}
	if cause == nil {
		cause = in.err()
	} else if !in.planned {
		return // nothing was touched, and it may be tried again
	}
	m := in.merge
	m.mu.Lock()
	defer m.mu.Unlock()
	var errs []error
	for _, t := range in.tasks {
		errs = append(errs, t.extra.Truncate(t.plan.Size), t.close())
	}
	if cause = errors.Join(append(errs, cause)...); cause == nil {
		if in.final {
			cause = in.assemble()
		} else {
			cause = in.endRound(k)
		}
	}
	m.fail(cause)
}

// endRound: the merged memory is that of round k.
func (in *intake) endRound(k int) error {
	m := in.merge
	tasks := map[uint64]pagemap.Memory{}
	for _, t := range in.tasks {
		var err error
		if tasks[t.id], err = m.settle(t.id, pagemap.Memory{Base: m.tasks[t.id].Base, Extra: t.plan.Extra, Live: t.plan.Live}); err != nil {
			return err
		}
	}
	for id := range m.tasks {
		if _, lives := tasks[id]; !lives {
			if err := errors.Join(os.Remove(m.pages(mergedName, id)), os.Remove(m.pages(extraName, id))); err != nil {
				return err
			}
		}
	}
	m.tasks, m.last = tasks, k
	return os.RemoveAll(in.dir)
}

// assemble: the merged memory is that of the final dump.
func (in *intake) assemble() error {
	m := in.merge
	a := &Assembly{}
	merged := filepath.Join(m.dir, mergedName)
	for pages, t := range in.tasks {
		base := m.tasks[t.id].Base
		whole := t.plan.Size == 0 && pagemap.Bytes(base) == pagemap.Bytes(t.plan.Live)
		from, list := m.pages(extraName, t.id), t.plan.List
		if whole {
			from, list = m.pages(mergedName, t.id), t.plan.Live
		}
		if err := os.Rename(from, filepath.Join(in.dir, pages)); err != nil {
			return err
		}
		if err := writeMap(in.dir, t.id, &pagemap.Map{PagesID: t.list.PagesID, Entries: list}); err != nil {
			return err
		}
		if whole {
			a.Whole++
			if err := placeholder(merged, t.id); err != nil {
				return err
			}
			continue
		}
		a.Chained++
		a.ExtraBytes += t.plan.Size
		if err := writeMap(merged, t.id, &pagemap.Map{PagesID: uint32(t.id), Entries: base}); err != nil {
			return err
		}
	}
	if err := os.Symlink("../"+mergedName, filepath.Join(in.dir, parentName)); err != nil {
		return err
	}
	m.made = a
	return nil
}

// placeholder makes a dump in which a process has no pages, for another to build on.
// A process of which there is no earlier dump CRIU gives its memory only when it is in its
// place (criu/pagemap.c, pieok), before it says that there are to be no huge pages and
// after it has taken our own saying so back (criu/pie/restorer.c). With huge pages one
// byte that is written is 2 MiB for the next dump: what has arrived could not move again.
func placeholder(dir string, id uint64) error {
	if err := os.WriteFile(filepath.Join(dir, pagesName(id)), make([]byte, os.Getpagesize()), 0o600); err != nil {
		return err
	}
	return writeMap(dir, id, &pagemap.Map{PagesID: uint32(id)})
}

func (in *intake) fail(err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.cause == nil {
		in.cause = err
	}
}

func (in *intake) err() error {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.cause
}

// taken is a file that is being taken in.
type taken struct {
	in *intake
	f  *os.File
	// plain: it is copied. Otherwise moves say what of it belongs where, in f or in base.
	plain bool
	base  *os.File
	moves []pagemap.Move
}

// piece takes a part of the file.
func (t *taken) piece(b []byte, at int64) {
	if t == nil {
		return
	}
	if t.plain {
		if _, err := t.f.WriteAt(b, at); err != nil {
			t.in.fail(err)
		}
		return
	}
	first := sort.Search(len(t.moves), func(i int) bool { return t.moves[i].From+t.moves[i].Bytes > at })
	for _, v := range t.moves[first:] {
		if len(b) == 0 {
			return
		}
		// b begins within v.
		off := at - v.From
		n := min(v.Bytes-off, int64(len(b)))
		f := t.f
		if v.Base {
			f = t.base
		}
		if _, err := f.WriteAt(b[:n], v.To+off); err != nil {
			t.in.fail(err)
			return
		}
		b, at = b[n:], at+n
	}
}

// close ends the taking of a file.
func (t *taken) close() {
	if t == nil || !t.plain {
		return
	}
	if err := t.f.Close(); err != nil {
		t.in.fail(err)
	}
}
