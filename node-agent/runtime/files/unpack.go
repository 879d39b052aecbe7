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
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/node-agent/runtime"
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

// newUnpacker unpacks an archive of size bytes. The tree's own directory gets the
// archive's owner and mode unless it is a layer's, which belongs to the image.
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
		if hdr.Typeflag == tar.TypeDir && !u.layer {
			u.dirs = append(u.dirs, hdr)
		}
		return nil
	}
	dir, base := path.Dir(name), path.Base(name)
	if u.layer && strings.HasPrefix(base, whiteoutPrefix) {
		return u.whiteout(dir, base)
	}
	if u.made[name] {
		return hostile(runtime.RefusedArchive, "it comes twice")
	}
	u.made[name] = true
	if err := u.root.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if hdr.PAXRecords[recordKind] == kindRemoved {
		return u.root.RemoveAll(name)
	}
	have, err := u.root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		have, err = nil, nil
	}
	if err != nil {
		return err
	}
	if hdr.Typeflag == tar.TypeReg && hdr.PAXRecords[recordKind] == "" {
		return u.regular(name, hdr, content, have)
	}
	isDir := hdr.Typeflag == tar.TypeDir
	if have != nil && (!isDir || !have.IsDir()) {
		if err := u.root.RemoveAll(name); err != nil {
			return err
		}
		have = nil
	}
	return u.other(name, hdr, have != nil)
}

// other makes what is no regular file. there: it is a directory, and there is one.
func (u *unpacker) other(name string, hdr *tar.Header, there bool) error {
	switch hdr.Typeflag {
	case tar.TypeDir:
		u.dirs = append(u.dirs, hdr)
		if there {
			return nil
		}
		return u.root.Mkdir(name, 0o700)
	case tar.TypeLink:
		return u.root.Link(path.Clean(hdr.Linkname), name)
	case tar.TypeSymlink:
		if err := u.root.Symlink(hdr.Linkname, name); err != nil {
			return err
		}
		return u.inParent(name, func(fd int, base string) error { return dressNode(fd, base, hdr) })
	case tar.TypeFifo:
		return u.node(name, unix.S_IFIFO, hdr)
	case tar.TypeReg:
		if hdr.PAXRecords[recordKind] == kindSocket {
			return u.node(name, unix.S_IFSOCK, hdr)
		}
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

// regular makes a file. One that is there is written to, if it has no other name: what
// kubelet has mounted of a volume into a container stays what it was mounted from.
func (u *unpacker) regular(name string, hdr *tar.Header, content io.Reader, have fs.FileInfo) (err error) {
	patch := hdr.PAXRecords[recordPatch] != ""
	if patch && (have == nil || !have.Mode().IsRegular()) {
		return hostile(runtime.RefusedArchive, "it changes a file that is not there")
	}
	if have != nil && !patch && !reusable(have) {
		if err := u.root.RemoveAll(name); err != nil {
			return err
		}
		have = nil
	}
	flags := os.O_WRONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK
	if have == nil {
		flags |= os.O_CREATE | os.O_EXCL
	}
	f, err := u.root.OpenFile(name, flags, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if have != nil {
		fi, err := f.Stat()
		if err != nil {
			return err
		}
		if !os.SameFile(have, fi) {
			return errReplaced
		}
	}
	if have != nil && !patch {
		if err := f.Truncate(0); err != nil {
			return err
		}
	}
	if err := u.content(f, hdr, content); err != nil {
		return err
	}
	return dress(f, hdr)
}

// reusable says whether a file can be written to in place of a new one.
func reusable(have fs.FileInfo) bool {
	st, ok := have.Sys().(*syscall.Stat_t)
	return ok && have.Mode().IsRegular() && st.Nlink == 1
}

// content writes what an entry has of a file.
func (u *unpacker) content(f *os.File, hdr *tar.Header, content io.Reader) error {
	list := []span{{0, hdr.Size}}
	if text, ok := hdr.PAXRecords[recordSize]; ok {
		size, err := strconv.ParseInt(text, 10, 64)
		if err != nil || size < 0 {
			return hostile(runtime.RefusedArchive, "it is to have %q bytes", text)
		}
		if list, err = decodeSpans(content, hdr.Size, size); err != nil {
			return hostile(runtime.RefusedArchive, "%v", err)
		}
		if err := f.Truncate(size); err != nil {
			return err
		}
	} else if hdr.PAXRecords[recordPatch] != "" {
		return hostile(runtime.RefusedArchive, "it changes a file and does not say to what size")
	}
	for _, s := range list {
		n, err := io.Copy(io.NewOffsetWriter(f, s.off), io.LimitReader(content, s.length))
		if errors.Is(err, io.ErrUnexpectedEOF) || err == nil && n != s.length {
			return hostile(runtime.RefusedArchive, "it ends after %d of %d bytes", n, s.length)
		}
		if err != nil {
			return fmt.Errorf("%d of %d bytes: %w", n, s.length, err)
		}
	}
	return nil
}

// node makes a FIFO or a socket.
func (u *unpacker) node(name string, kind uint32, hdr *tar.Header) error {
	return u.inParent(name, func(fd int, base string) error {
		if err := unix.Mknodat(fd, base, kind|0o600, 0); err != nil {
			return err
		}
		return dressNode(fd, base, hdr)
	})
}

// dressNode gives what cannot be opened its owner, mode and time.
func dressNode(fd int, base string, hdr *tar.Header) error {
	if err := unix.Fchownat(fd, base, hdr.Uid, hdr.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if hdr.Typeflag != tar.TypeSymlink { // a link has no mode, and it would be its target's
		p, err := unix.Openat(fd, base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		f := os.NewFile(uintptr(p), base)
		err = unix.Fchmodat(unix.AT_FDCWD, fdPath(f), uint32(hdr.Mode)&0o7777, 0)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	ts := times(hdr)
	return unix.UtimesNanoAt(fd, base, ts[:], unix.AT_SYMLINK_NOFOLLOW)
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
	if err := dropAttributes(f, hdr); err != nil {
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
	return unix.UtimesNanoAt(unix.AT_FDCWD, fdPath(f), ts[:], 0)
}

func times(hdr *tar.Header) [2]unix.Timespec {
	t := unix.NsecToTimespec(hdr.ModTime.UnixNano())
	return [2]unix.Timespec{t, t}
}
