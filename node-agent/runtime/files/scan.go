// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package files

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/node-agent/runtime/host"
)

// entry is a name that a scan has found.
type entry struct {
	// name relative to the tree, "." for the tree's own directory.
	name string
	st   unix.Stat_t
	// opaque: a directory of an overlay that hides what is below it.
	opaque bool
}

func (e *entry) isDir() bool     { return e.st.Mode&unix.S_IFMT == unix.S_IFDIR }
func (e *entry) isRegular() bool { return e.st.Mode&unix.S_IFMT == unix.S_IFREG }

// isDevice: and no whiteout.
func (e *entry) isDevice(overlay bool) bool {
	switch e.st.Mode & unix.S_IFMT {
	case unix.S_IFBLK:
		return true
	case unix.S_IFCHR:
		return !overlay || e.st.Rdev != 0
	}
	return false
}

// scanner lists a tree, parents before what is in them, in an order that does not
// depend on the file system. It goes from directory to directory by descriptors and
// never through a link, so that it cannot be led out of the tree.
type scanner struct {
	overlay bool
	// still: nobody changes the tree. Otherwise what has gone meanwhile is left out;
	// the directory it was in has changed then, and the next scan tells of it.
	still   bool
	entries []entry
	depth   int
}

// What is known of each name is in memory, and each level of directories is an open one.
const (
	maxEntries = 1 << 20
	maxDepth   = 1000
)

// scan lists a tree that is open at root.
func scan(ctx context.Context, root *os.File, overlay, still bool) ([]entry, error) {
	s := &scanner{overlay: overlay, still: still}
	d, err := openBeneath(root, ".", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	top := entry{name: "."}
	if err := unix.Fstat(int(d.Fd()), &top.st); err != nil {
		return nil, err
	}
	s.entries = append(s.entries, top)
	return s.entries, s.dir(ctx, d, ".")
}

func (s *scanner) dir(ctx context.Context, d *os.File, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.depth++; s.depth > maxDepth {
		return fmt.Errorf("%s: %w: more than %d directories in each other", name, ErrNotPackable, maxDepth)
	}
	defer func() { s.depth-- }()
	names, err := d.Readdirnames(-1)
	if err != nil && !s.passing(err) {
		return fmt.Errorf("%s: %w", name, err)
	}
	if len(s.entries)+len(names) > maxEntries {
		return fmt.Errorf("%w: more than %d files", ErrNotPackable, maxEntries)
	}
	slices.Sort(names)
	for _, n := range names {
		if err := s.name(ctx, d, path.Join(name, n)); err != nil {
			return err
		}
	}
	return nil
}

// name looks at one name of a directory, and at what is below it.
func (s *scanner) name(ctx context.Context, d *os.File, name string) error {
	e := entry{name: name}
	base := path.Base(name)
	switch err := unix.Fstatat(int(d.Fd()), base, &e.st, unix.AT_SYMLINK_NOFOLLOW); {
	case s.passing(err):
		return nil
	case err != nil:
		return fmt.Errorf("%s: %w", name, err)
	case s.overlay && strings.HasPrefix(base, whiteoutPrefix):
		return fmt.Errorf("%s: %w: the name means a deletion in a layer", name, ErrNotPackable)
	}
	if !e.isDir() {
		s.entries = append(s.entries, e)
		return nil
	}
	fd, err := unix.Openat(int(d.Fd()), base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if s.passing(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	sub := os.NewFile(uintptr(fd), name)
	defer sub.Close()
	if s.overlay {
		if e.opaque, err = isOpaque(sub); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	s.entries = append(s.entries, e)
	return s.dir(ctx, sub, name)
}

// passing says whether an error only means that the tree has changed meanwhile.
func (s *scanner) passing(err error) bool { return !s.still && vanished(err) }

// errReplaced: another file has the name now.
var errReplaced = errors.New("it was replaced while it was packed")

// vanished says whether an error means that a name, or what it stood for, has gone.
func vanished(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) ||
		errors.Is(err, unix.ENXIO) || errors.Is(err, errReplaced)
}

// openBeneath opens a name of a tree, and nothing that is not in it.
func openBeneath(root *os.File, name string, flags uint64) (*os.File, error) {
	how := unix.OpenHow{
		Flags:   flags | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	}
	for {
		fd, err := unix.Openat2(int(root.Fd()), name, &how)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) {
			continue
		}
		if err != nil {
			return nil, &os.PathError{Op: "open", Path: name, Err: err}
		}
		return os.NewFile(uintptr(fd), name), nil
	}
}

// sizeOf is about what an archive of a tree that is open at root would have.
func sizeOf(ctx context.Context, root *os.File, overlay bool) (int64, error) {
	entries, err := scan(ctx, root, overlay, false)
	var n int64
	for i := range entries {
		n += tarBlock
		e := &entries[i]
		if e.isRegular() {
			n += min(e.st.Size, e.st.Blocks*statBlock)
		}
		if err == nil && e.isDevice(overlay) {
			err = fmt.Errorf("%s: %w: a device node", e.name, ErrNotPackable)
		}
	}
	return n, err
}

const (
	tarBlock  = 512
	statBlock = 512 // the unit of st_blocks
)

// fdPath is host.FDPath.
func fdPath(f *os.File) string { return host.FDPath(f) }
