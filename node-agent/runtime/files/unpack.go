// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package files

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/node-agent/runtime"
	"godwit.dev/godwit/node-agent/runtime/host"
)

// unpacker applies a tar stream to a directory. Every operation goes through
// os.Root, which refuses to follow a link out of the directory: an archive that
// first makes a link and then a file below it fails, whatever the link says.
// (Tools for image layers resolve such links inside the root instead, by names,
// and some of their calls follow the last link after all.) Pack never writes an
// entry below a link: in an upper directory every parent is a directory.
type unpacker struct {
	root  *os.Root
	layer bool
	// left is how many bytes of content may still come. An archive is not
	// compressed, so that there is never more in it than its own size, which the
	// manifest bounds; only a sparse file could say otherwise.
	left int64
	// made are the names made by this archive; an opaque marker spares them.
	made map[string]bool
	// dirs are the directories, whose times and modes are set at the end: both
	// would be changed, or stand in the way, while there is more to put in.
	dirs []*tar.Header
}

// newUnpacker unpacks an archive of size bytes.
func newUnpacker(root *os.Root, layer bool, size int64) *unpacker {
	return &unpacker{root: root, layer: layer, left: size, made: map[string]bool{}}
}

func (u *unpacker) unpack(ctx context.Context, r io.Reader) error {
	tr := tar.NewReader(r)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		hdr, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return u.unreadable(err)
		}
		if err := check(hdr); err != nil {
			return err
		}
		if u.left -= hdr.Size; u.left < 0 {
			return hostile(runtime.RefusedBomb, "%q has %d bytes, more than the archive", hdr.Name, hdr.Size)
		}
		if err := u.entry(hdr, tr); err != nil {
			if runtime.RefusalOf(err) == "" && u.throughLink(hdr) {
				err = hostile(runtime.RefusedArchive, "below a link: %v", err)
			}
			return fmt.Errorf("%s: %w", hdr.Name, err)
		}
	}
	// Children before parents, for a parent may end up unsearchable.
	for i := len(u.dirs) - 1; i >= 0; i-- {
		if err := u.finishDir(u.dirs[i]); err != nil {
			return fmt.Errorf("%s: %w", u.dirs[i].Name, err)
		}
	}
	return nil
}

func (u *unpacker) entry(hdr *tar.Header, content io.Reader) error {
	name := path.Clean(hdr.Name)
	if name == "." {
		return nil
	}
	dir, base := path.Dir(name), path.Base(name)
	if u.layer && strings.HasPrefix(base, whiteoutPrefix) {
		return u.whiteout(dir, base)
	}
	if u.made[name] {
		return hostile(runtime.RefusedArchive, "it comes twice")
	}
	if err := u.root.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	isDir := hdr.Typeflag == tar.TypeDir
	have, err := u.root.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		have = nil
	case err != nil:
		return err
	case !isDir || !have.IsDir():
		if err := u.root.RemoveAll(name); err != nil {
			return err
		}
		have = nil
	}
	u.made[name] = true
	switch hdr.Typeflag {
	case tar.TypeDir:
		u.dirs = append(u.dirs, hdr)
		if have != nil {
			return nil
		}
		return u.root.Mkdir(name, 0o700)
	case tar.TypeReg:
		return u.regular(name, hdr, content)
	case tar.TypeLink:
		return u.root.Link(path.Clean(hdr.Linkname), name)
	case tar.TypeSymlink:
		if err := u.root.Symlink(hdr.Linkname, name); err != nil {
			return err
		}
		if err := u.root.Lchown(name, hdr.Uid, hdr.Gid); err != nil {
			return err
		}
		return u.inParent(name, func(fd int, base string) error {
			ts := times(hdr)
			return unix.UtimesNanoAt(fd, base, ts[:], unix.AT_SYMLINK_NOFOLLOW)
		})
	case tar.TypeFifo:
		return u.fifo(name, hdr)
	}
	return hostile(runtime.RefusedArchive, "type %q", hdr.Typeflag)
}

// unreadable tells an archive that is broken from a file that cannot be read.
func (u *unpacker) unreadable(err error) error {
	var file *fs.PathError
	if errors.As(err, &file) {
		return fmt.Errorf("read the archive: %w", err)
	}
	return hostile(runtime.RefusedArchive, "read it: %v", err)
}

// throughLink says whether an entry, or what a hard link names, lies below a
// symbolic link: then it is the archive that is to blame for a failure, and not
// the node.
func (u *unpacker) throughLink(hdr *tar.Header) bool {
	names := []string{hdr.Name}
	if hdr.Typeflag == tar.TypeLink {
		names = append(names, hdr.Linkname)
	}
	for _, name := range names {
		for dir := path.Dir(path.Clean(name)); dir != "."; dir = path.Dir(dir) {
			// An error is one more of what lies below the link, if there is one.
			if fi, err := u.root.Lstat(dir); err == nil && fi.Mode()&fs.ModeSymlink != 0 {
				return true
			}
		}
	}
	return false
}

// whiteout removes what a layer deletes.
func (u *unpacker) whiteout(dir, base string) error {
	if base != opaqueMarker {
		name := strings.TrimPrefix(base, whiteoutPrefix)
		if name == "" || name == "." || name == ".." {
			return hostile(runtime.RefusedArchive, "a whiteout of %q", name)
		}
		return u.root.RemoveAll(path.Join(dir, name))
	}
	d, err := u.root.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	names, err := d.Readdirnames(-1)
	if err := errors.Join(err, d.Close()); err != nil {
		return err
	}
	for _, n := range names {
		if full := path.Join(dir, n); !u.made[full] {
			if err := u.root.RemoveAll(full); err != nil {
				return err
			}
		}
	}
	return nil
}

func (u *unpacker) regular(name string, hdr *tar.Header, content io.Reader) (err error) {
	f, err := u.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	switch n, err := io.Copy(f, content); {
	case errors.Is(err, io.ErrUnexpectedEOF), err == nil && n != hdr.Size:
		return hostile(runtime.RefusedArchive, "it ends after %d of %d bytes", n, hdr.Size)
	case err != nil:
		return fmt.Errorf("%d of %d bytes: %w", n, hdr.Size, err)
	}
	return dress(f, hdr)
}

func (u *unpacker) fifo(name string, hdr *tar.Header) error {
	err := u.inParent(name, func(fd int, base string) error {
		return unix.Mkfifoat(fd, base, 0o600)
	})
	if err != nil {
		return err
	}
	f, err := u.root.OpenFile(name, os.O_RDWR|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	return errors.Join(dress(f, hdr), f.Close())
}

func (u *unpacker) finishDir(hdr *tar.Header) error {
	f, err := u.root.OpenFile(path.Clean(hdr.Name), os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // removed again by a later entry
	}
	if err != nil {
		return err
	}
	return errors.Join(dress(f, hdr), f.Close())
}

// inParent calls fn with the directory that holds a name.
func (u *unpacker) inParent(name string, fn func(fd int, base string) error) error {
	d, err := u.root.OpenFile(path.Dir(name), os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer d.Close()
	return fn(int(d.Fd()), path.Base(name))
}

// dress gives an open file its owner, attributes, mode and time, in this order:
// a change of owner takes away capabilities and the set-user-id bits.
func dress(f *os.File, hdr *tar.Header) error {
	if err := f.Chown(hdr.Uid, hdr.Gid); err != nil {
		return err
	}
	for key, value := range hdr.PAXRecords {
		if attr, ok := strings.CutPrefix(key, xattrPrefix); ok {
			if err := unix.Fsetxattr(int(f.Fd()), attr, []byte(value), 0); err != nil {
				return fmt.Errorf("set attribute %s: %w", attr, err)
			}
		}
	}
	if err := unix.Fchmod(int(f.Fd()), uint32(hdr.Mode)&0o7777); err != nil {
		return err
	}
	ts := times(hdr)
	return unix.UtimesNanoAt(unix.AT_FDCWD, host.FDPath(f), ts[:], 0)
}

func times(hdr *tar.Header) [2]unix.Timespec {
	t := unix.NsecToTimespec(hdr.ModTime.UnixNano())
	return [2]unix.Timespec{t, t}
}
