// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package images

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/node-agent/runtime"
)

// dir is an open directory of the volume together with its path relative to
// the volume's root, for error messages.
type dir struct {
	f    *os.File
	name string
}

const resolve = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV

func openat2(d *os.File, name string, flags uint64) (*os.File, error) {
	how := &unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: resolve}
	for {
		fd, err := unix.Openat2(int(d.Fd()), name, how)
		switch {
		case err == nil:
			return os.NewFile(uintptr(fd), name), nil
		// EAGAIN: a concurrent rename made the kernel unsure; it asks for another try.
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
			continue
		}
		return nil, &fs.PathError{Op: "openat2", Path: name, Err: err}
	}
}

// join is the path of a child for messages.
func (d *dir) join(name string) string { return path.Join(d.name, name) }

func (d *dir) close() { _ = d.f.Close() }

// openDir opens a directory below d; name may have several elements.
func (d *dir) openDir(name string) (*dir, error) {
	f, err := openat2(d.f, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err != nil {
		return nil, wrap(d.join(name), err)
	}
	return &dir{f: f, name: d.join(name)}, nil
}

// mkdir makes sure that a directory with mode 0700 is there and opens it.
func (d *dir) mkdir(name string) (*dir, error) {
	if err := unix.Mkdirat(int(d.f.Fd()), name, 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, wrap(d.join(name), err)
	}
	sub, err := d.openDir(name)
	if err != nil {
		return nil, err
	}
	// One that somebody has made before, or a volume that adds rights of its own,
	// must not open what was in a process's memory to others.
	var st unix.Stat_t
	err = unix.Fstat(int(sub.f.Fd()), &st)
	if err == nil && st.Mode&0o7777 != 0o700 {
		err = unix.Fchmod(int(sub.f.Fd()), 0o700)
	}
	if err != nil {
		sub.close()
		return nil, wrap(sub.name, err)
	}
	return sub, nil
}

// list returns the names in the directory, sorted, with their types.
func (d *dir) list() ([]fs.DirEntry, error) {
	if _, err := d.f.Seek(0, io.SeekStart); err != nil {
		return nil, wrap(d.name, err)
	}
	entries, err := d.f.ReadDir(-1)
	if err != nil {
		return nil, wrap(d.name, err)
	}
	sortEntries(entries)
	return entries, nil
}

// openFile opens a regular file for reading. The type is known before the file
// is really opened, because opening a device can already do something and
// opening a fifo can wait for ever.
func (d *dir) openFile(name string) (*os.File, identity, error) {
	p, err := openat2(d.f, name, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return nil, identity{}, wrap(d.join(name), err)
	}
	defer p.Close()
	if _, err := fstat(p, d.join(name)); err != nil {
		return nil, identity{}, err
	}
	// This second open is also the one that NFS checks with the server.
	f, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", p.Fd()), os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, identity{}, wrap(d.join(name), err)
	}
	id, err := fstat(f, d.join(name))
	if err != nil {
		_ = f.Close()
		return nil, identity{}, err
	}
	return f, id, nil
}

// readLink reads the link "parent". It must be a relative path to a round.
func (d *dir) readLink() (string, error) {
	buf := make([]byte, 64)
	n, err := unix.Readlinkat(int(d.f.Fd()), parentName, buf)
	switch {
	case errors.Is(err, unix.EINVAL):
		return "", tampered(d.join(parentName), runtime.RefusedParent, "it is not a link")
	case err != nil:
		return "", wrap(d.join(parentName), err)
	}
	link := string(buf[:n])
	// CRIU is given the parent's path by its caller; a trailing slash is harmless.
	link = strings.TrimSuffix(link, "/")
	if _, ok := parentRound(link); !ok {
		return "", tampered(d.join(parentName), runtime.RefusedParent, "it leads to %q", link)
	}
	return link, nil
}

// identity is what tells that a file has not been written since it was hashed.
// The change time is part of it: unlike the modification time it cannot be set.
type identity struct {
	Inode uint64 `json:"inode"`
	Size  int64  `json:"size"`
	// Nanoseconds.
	Mtime int64 `json:"mtime"`
	Ctime int64 `json:"ctime"`
}

// fstat fails unless the file is a regular one. name is for messages.
func fstat(f *os.File, name string) (identity, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return identity{}, wrap(name, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return identity{}, tampered(name, runtime.RefusedType, "it is no regular file (mode %o)", st.Mode)
	}
	return identity{Inode: st.Ino, Size: st.Size, Mtime: st.Mtim.Nano(), Ctime: st.Ctim.Nano()}, nil
}
