// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package images

import (
	"context"
	"fmt"
	"io"
	"slices"

	"golang.org/x/sync/errgroup"

	"godwit.dev/godwit/node-agent/runtime"
)

// Verify checks the whole set against the digest that the source published:
// the manifest, every file's size and hash, every parent link, and that nothing
// else lies there. Rounds that VerifyRound has read are compared with what it
// learned and, as long as inode, size and times are the same, not read again.
// The returned manifest is the verified one.
//
// Of a container that is restored from the merged rounds, nothing on the volume but the
// final dump and the packed files is looked at: the memory that is used was what the
// manifest says when it was read, whatever lies there by now. The pod stands still for
// every question to the server.
func (s *Set) Verify(ctx context.Context, digest string) (*Manifest, error) {
	var m *Manifest
	if err := s.store.untilThere(ctx, func() error {
		var err error
		m, err = s.readManifest(digest)
		return err
	}); err != nil {
		return nil, err
	}
	now, later, merging := s.checks(m)
	if err := s.checkAll(ctx, m, now); err != nil {
		return nil, err
	}
	for _, c := range merging {
		if _, err := s.Assembled(c); err == nil {
			continue
		}
		if err := s.checkAll(ctx, m, later); err != nil {
			return nil, err
		}
		break
	}
	return m, nil
}

// checks is what of a set is compared with the manifest.
type checks struct {
	tree bool
	dirs []Dir
}

// checks divides a set into what must be looked at in any case, the final dumps first, and
// what must be only when the rounds and the final dump of one of the merging containers
// do not become one on the node.
func (s *Set) checks(m *Manifest) (now, later checks, merging []string) {
	for _, d := range m.Dirs {
		switch {
		case s.tookIn(d):
			later.dirs = append(later.dirs, d)
		case d.Name != finalName:
			now.dirs = append(now.dirs, d)
		default:
			now.dirs = slices.Insert(now.dirs, 0, d)
			if s.merging(d.Container).holds() {
				merging = append(merging, d.Container)
			} else {
				now.tree = true // what is restored from the volume must not meet anything else there
			}
		}
	}
	later.tree = !now.tree
	return now, later, merging
}

// tookIn says that a round's memory is in the merged rounds, and was what is published.
func (s *Set) tookIn(d Dir) bool {
	key, ok := keyOf(d.Container, d.Name)
	if !ok || key.files || !s.merging(d.Container).holds() {
		return false
	}
	h := s.seen(d)
	return h != nil && h.Dir.Parent == d.Parent && slices.Equal(h.Dir.Files, d.Files)
}

func (s *Set) checkAll(ctx context.Context, m *Manifest, c checks) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(workers())
	for _, d := range c.dirs {
		g.Go(func() error {
			return s.store.untilThere(gctx, func() error { return s.checkDir(gctx, d) })
		})
	}
	if c.tree {
		g.Go(func() error {
			return s.store.untilThere(gctx, func() error { return s.checkTree(m) })
		})
	}
	return g.Wait()
}

// Manifest reads the manifest of a set that was verified before. Whoever uses a file of
// it compares what Read returns.
func (s *Set) Manifest(ctx context.Context, digest string) (m *Manifest, err error) {
	err = s.store.untilThere(ctx, func() error {
		m, err = s.readManifest(digest)
		return err
	})
	return m, err
}

// readManifest reads the manifest and trusts it only when it has the digest.
func (s *Set) readManifest(digest string) (*Manifest, error) {
	set, err := s.openDir()
	if err != nil {
		return nil, err
	}
	defer set.close()
	f, id, err := set.openFile(manifestName)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	name := set.join(manifestName)
	if id.Size > MaxManifest {
		return nil, &FileError{Name: name, Err: ErrManifest, Detail: "it is too large"}
	}
	b, err := io.ReadAll(io.LimitReader(f, MaxManifest+1))
	if err != nil {
		return nil, wrap(name, err)
	}
	if got := Digest(b); got != digest {
		return nil, &FileError{Name: name, Err: ErrDigestMismatch, Detail: "it is " + got + ", published was " + digest}
	}
	m, err := decodeManifest(b)
	if err != nil {
		return nil, &FileError{Name: name, Err: err}
	}
	if m.MigrationUID != s.uid {
		return nil, tampered(name, runtime.RefusedMigration, "it is the set of migration %s", m.MigrationUID)
	}
	return m, nil
}

// checkTree compares the directories with the manifest.
func (s *Set) checkTree(m *Manifest) error {
	want := map[string][]string{}
	top := []string{manifestName}
	for _, d := range m.Dirs {
		if want[d.Container] == nil {
			top = append(top, d.Container)
		}
		want[d.Container] = append(want[d.Container], d.Name)
	}
	set, err := s.openDir()
	if err != nil {
		return err
	}
	defer set.close()
	if err := set.holds(top); err != nil {
		return err
	}
	for container, names := range want {
		d, err := set.openDir(container)
		if err != nil {
			return err
		}
		err = d.holds(names)
		d.close()
		if err != nil {
			return err
		}
	}
	return nil
}

// holds fails unless the directory contains exactly these names.
func (d *dir) holds(names []string) error {
	entries, err := d.list()
	if err != nil {
		return err
	}
	found := map[string]bool{}
	for _, e := range entries {
		if !slices.Contains(names, e.Name()) {
			return tampered(d.join(e.Name()), runtime.RefusedUnlisted, "it is not in the manifest")
		}
		found[e.Name()] = true
	}
	for _, n := range names {
		if !found[n] {
			return &FileError{Name: d.join(n), Err: errUnlisted}
		}
	}
	return nil
}

// checkDir compares one directory and its files with the manifest.
func (s *Set) checkDir(ctx context.Context, want Dir) error {
	d, err := s.openDir(want.Container, want.Name)
	if err != nil {
		return err
	}
	defer d.close()
	names := make([]string, 0, len(want.Files)+1)
	for _, f := range want.Files {
		names = append(names, f.Name)
	}
	if want.Parent != "" {
		names = append(names, parentName)
	}
	if err := d.holds(names); err != nil {
		return err
	}
	if want.Parent != "" {
		link, err := d.readLink()
		if err != nil {
			return err
		}
		if link != want.Parent {
			return tampered(d.join(parentName), runtime.RefusedParent, "it leads to %q, not %q", link, want.Parent)
		}
	}
	h := s.seen(want)
	if h != nil && slices.Equal(h.Dir.Files, want.Files) && unchanged(d, h) {
		return nil
	}
	if isFiles(want.Name) {
		return checkFilesOf(ctx, d, want.Files, reading{})
	}
	m := s.merging(want.Container)
	if h != nil {
		// What was merged is what was read then.
		m.giveUp(fmt.Errorf("%s has changed since it was read", want.path()))
	}
	in := m.final(want)
	err = checkFilesOf(ctx, d, want.Files, reading{into: in})
	in.done(0, err)
	return err
}

// seen returns what VerifyRound learned about a round; it does not wait for one
// that is being read just now.
func (s *Set) seen(want Dir) *hashed {
	key, ok := keyOf(want.Container, want.Name)
	if !ok {
		return nil
	}
	s.mu.Lock()
	w := s.rounds[key]
	s.mu.Unlock()
	if w == nil {
		return s.loadState(key)
	}
	select {
	case <-w.done:
		if w.err == nil {
			return w.h
		}
	default:
	}
	return nil
}

// checkFilesOf reads the files and compares them.
func checkFilesOf(ctx context.Context, d *dir, files []File, o reading) error {
	names := make([]string, len(files))
	for i, f := range files {
		names[i] = f.Name
	}
	return o.files(ctx, names, func(ctx context.Context, i int) error {
		want := files[i]
		got, _, err := hashFile(ctx, d, want.Name, want.Size, o)
		if err == nil && got != want {
			err = tampered(d.join(want.Name), runtime.RefusedContent, "its hash is %s, not %s", got.Hash, want.Hash)
		}
		return err
	})
}
