// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Package rootfs puts a container's root file system together as a
// reproducible tar stream: from packages, programs and a few directories.
package rootfs

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"time"
)

// merged are the directories that Debian has merged into /usr.
var merged = []string{"bin", "sbin", "lib", "lib64"}

// Tree is a root file system in memory. The zero value is not usable: see
// [New].
type Tree struct {
	entries map[string]*entry
}

type entry struct {
	header tar.Header
	data   []byte
}

// New returns a tree that holds the root directory only.
func New() *Tree {
	t := &Tree{entries: make(map[string]*entry)}
	t.put(tar.Header{Name: "", Typeflag: tar.TypeDir, Mode: 0o755}, nil)
	return t
}

// Add takes an entry over from another archive. Documentation and
// translations are left out, and paths below the directories that Debian has
// merged into /usr go to their real place. A directory that is there already
// stays as it is; any other path that comes twice is an error.
func (t *Tree) Add(h *tar.Header, r io.Reader) error {
	name := clean(h.Name)
	if unwanted(name) {
		return nil
	}
	old, exists := t.entries[name]
	if exists && h.Typeflag == tar.TypeDir {
		return nil
	}
	if exists {
		return fmt.Errorf("%s comes twice (types %q and %q)", name, old.header.Typeflag, h.Typeflag)
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeLink:
	default:
		return fmt.Errorf("%s has type %q, which an image here does not hold", name, h.Typeflag)
	}
	data, err := io.ReadAll(r)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	c := tar.Header{
		Name: name, Typeflag: h.Typeflag, Mode: h.Mode & 0o7777,
		Uid: h.Uid, Gid: h.Gid, Linkname: h.Linkname,
	}
	if h.Typeflag == tar.TypeLink {
		c.Linkname = clean(h.Linkname)
	}
	t.parents(name)
	t.put(c, data)
	return nil
}

// Dir adds a directory, or changes the mode and owner of one that exists.
func (t *Tree) Dir(name string, mode int64, owner int) {
	name = clean(name)
	t.parents(name)
	t.put(tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: mode, Uid: owner, Gid: owner}, nil)
}

// File adds a regular file that root owns, replacing one that exists.
func (t *Tree) File(name string, mode int64, data []byte) {
	name = clean(name)
	t.parents(name)
	t.put(tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: mode}, data)
}

// Symlink adds a symbolic link unless the path is taken.
func (t *Tree) Symlink(name, target string) {
	name = clean(name)
	if _, taken := t.entries[name]; taken {
		return
	}
	t.parents(name)
	t.put(tar.Header{Name: name, Typeflag: tar.TypeSymlink, Mode: 0o777, Linkname: target}, nil)
}

// Data returns the contents of a regular file.
func (t *Tree) Data(name string) ([]byte, bool) {
	e, ok := t.entries[clean(name)]
	if !ok || e.header.Typeflag != tar.TypeReg {
		return nil, false
	}
	return e.data, true
}

// Tar returns the tree as a tar archive. Equal trees give equal archives.
func (t *Tree) Tar() ([]byte, error) {
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	// A hard link has to come after its target, which the order of names does
	// not give: links go last.
	names := slices.Sorted(maps.Keys(t.entries))
	slices.SortStableFunc(names, func(a, b string) int {
		return rank(t.entries[a]) - rank(t.entries[b])
	})
	for _, name := range names {
		if name == "" {
			continue
		}
		e := t.entries[name]
		h := e.header
		h.Name = name
		if h.Typeflag == tar.TypeDir {
			h.Name += "/"
		}
		h.Size = int64(len(e.data))
		h.ModTime = time.Unix(0, 0)
		h.Format = tar.FormatPAX
		if err := tw.WriteHeader(&h); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if _, err := tw.Write(e.data); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	if err := tw.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

func rank(e *entry) int {
	if e.header.Typeflag == tar.TypeLink {
		return 1
	}
	return 0
}

func (t *Tree) put(h tar.Header, data []byte) { t.entries[h.Name] = &entry{header: h, data: data} }

func (t *Tree) parents(name string) {
	for d := path.Dir(name); d != "."; d = path.Dir(d) {
		if _, ok := t.entries[d]; !ok {
			t.put(tar.Header{Name: d, Typeflag: tar.TypeDir, Mode: 0o755}, nil)
		}
	}
}

// clean makes a path relative to the root and moves it to where Debian's
// merged /usr has it.
func clean(name string) string {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	first, rest, below := strings.Cut(name, "/")
	if below && slices.Contains(merged, first) {
		return "usr/" + first + "/" + rest
	}
	return name
}

func unwanted(name string) bool {
	for _, prefix := range []string{"usr/share/doc/", "usr/share/man/", "usr/share/locale/", "usr/share/lintian/", "usr/share/info/"} {
		if strings.HasPrefix(name, prefix) {
			return !strings.HasSuffix(name, "/copyright")
		}
	}
	return false
}
