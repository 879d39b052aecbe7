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
func (s *Set) Verify(ctx context.Context, digest string) (*Manifest, error) {
	var m *Manifest
	if err := s.store.untilThere(ctx, func() error {
		var err error
		m, err = s.readManifest(digest)
		return err
	}); err != nil {
		return nil, err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(workers())
	g.Go(func() error {
		return s.store.untilThere(gctx, func() error { return s.checkTree(m) })
	})
	for _, d := range m.Dirs {
		g.Go(func() error {
			return s.store.untilThere(gctx, func() error { return s.checkDir(gctx, d) })
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return m, nil
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
