// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package images

import (
	"cmp"
	"context"
	"errors"
	"os"
	"slices"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"godwit.dev/godwit/node-agent/runtime"
)

// Sealed is a finished image set.
type Sealed struct {
	// Digest is the SHA-256 of the manifest in lower case hex.
	Digest string
	// Bytes is the size of all files of the set without the manifest.
	Bytes int64
}

// Seal hashes what HashRound has not (the final dumps and the files), makes the
// whole set durable, and writes the manifest by renaming. It may be repeated; an
// unchanged set gets the same digest. It runs inside the freeze: everything that
// HashRound has seen is taken from memory, and if it was changed since, Verify
// finds out.
func (s *Set) Seal(ctx context.Context) (Sealed, error) {
	set, err := s.openDir()
	if err != nil {
		return Sealed{}, err
	}
	defer set.close()
	m := &Manifest{Version: ManifestVersion, MigrationUID: s.uid, Dirs: []Dir{}}
	if m.Dirs, err = s.collect(ctx, set); err != nil {
		return Sealed{}, err
	}
	b, err := encodeManifest(m)
	if err != nil {
		return Sealed{}, err
	}
	if err := set.publish(b); err != nil {
		return Sealed{}, err
	}
	// The entry of the set itself.
	root, err := s.store.open()
	if err != nil {
		return Sealed{}, err
	}
	defer root.close()
	if err := root.f.Sync(); err != nil {
		return Sealed{}, wrap(s.uid, err)
	}
	return Sealed{Digest: Digest(b), Bytes: m.Bytes()}, nil
}

// collect describes all directories of the set, in order.
func (s *Set) collect(ctx context.Context, set *dir) ([]Dir, error) {
	var work []Dir
	containers, err := set.list()
	if err != nil {
		return nil, err
	}
	for _, c := range containers {
		switch {
		case c.Name() == manifestName || c.Name() == manifestTemp:
			continue
		case !c.IsDir() || c.Name() != Pod && !validLabel(c.Name()):
			return nil, tampered(set.join(c.Name()), runtime.RefusedUnlisted, "it does not belong into an image set")
		}
		dirs, err := s.collectContainer(set, c.Name())
		if err != nil {
			return nil, err
		}
		work = append(work, dirs...)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(workers())
	for i := range work {
		g.Go(func() error {
			h, err := s.describe(ctx, work[i].Container, work[i].Name)
			if err != nil {
				return err
			}
			work[i] = h.Dir
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	slices.SortFunc(work, func(a, b Dir) int { return cmp.Compare(a.path(), b.path()) })
	return work, nil
}

func (s *Set) collectContainer(set *dir, container string) ([]Dir, error) {
	d, err := set.openDir(container)
	if err != nil {
		return nil, err
	}
	defer d.close()
	entries, err := d.list()
	if err != nil {
		return nil, err
	}
	var dirs []Dir
	for _, e := range entries {
		if !e.IsDir() || !validPlace(container, e.Name()) {
			return nil, tampered(d.join(e.Name()), runtime.RefusedUnlisted, "it does not belong into an image set")
		}
		dirs = append(dirs, Dir{Container: container, Name: e.Name()})
	}
	if err := d.f.Sync(); err != nil {
		return nil, wrap(d.name, err)
	}
	return dirs, nil
}

// describe hashes one directory, from memory when it is a round that is known.
func (s *Set) describe(ctx context.Context, container, name string) (*hashed, error) {
	if key, ok := keyOf(container, name); ok {
		return s.round(ctx, key, true, nil)
	}
	d, err := s.openDir(container, name)
	if err != nil {
		return nil, err
	}
	defer d.close()
	if stage := s.stage(container); stage != "" && name == finalName {
		if err := gather(ctx, d, stage); err != nil {
			return nil, err
		}
	}
	return hashDir(ctx, d, container, name, reading{sync: true, known: s.endFollowing(ctx, container, name)})
}

// publish writes the manifest so that it is there whole or not at all, also
// after a crash of the node or the server.
func (d *dir) publish(b []byte) error {
	fd := int(d.f.Fd())
	if err := unix.Unlinkat(fd, manifestTemp, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return wrap(d.join(manifestTemp), err)
	}
	f, err := createAt(d, manifestTemp)
	if err != nil {
		return wrap(d.join(manifestTemp), err)
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	// NFS reports a full volume as late as here.
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = unix.Renameat(fd, manifestTemp, fd, manifestName)
	}
	if err == nil {
		err = d.f.Sync()
	}
	return wrap(d.join(manifestName), err)
}

func createAt(d *dir, name string) (*os.File, error) {
	fd, err := unix.Openat(int(d.f.Fd()), name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}
