// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package files

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Whiteouts in the form of the OCI image specification.
const (
	whiteoutPrefix = ".wh."
	opaqueMarker   = ".wh..wh..opq"
)

// packer writes a directory tree as a tar stream. It never leaves root, even if
// somebody exchanges directories for links while it walks.
type packer struct {
	root    *os.Root
	tw      *tar.Writer
	overlay bool // the root is an overlay's upper directory
	links   map[inode]string
}

type inode struct{ dev, ino uint64 }

func newPacker(root *os.Root, w io.Writer, overlay bool) *packer {
	return &packer{root: root, tw: tar.NewWriter(w), overlay: overlay, links: map[inode]string{}}
}

func (p *packer) pack(ctx context.Context) error {
	if err := p.dir(ctx, "."); err != nil {
		return err
	}
	return p.tw.Close()
}

// dir packs what is in a directory, parents before their content, in an order
// that does not depend on the file system.
func (p *packer) dir(ctx context.Context, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	d, err := p.root.OpenFile(name, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	names, err := d.Readdirnames(-1)
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, n := range names {
		if err := p.entry(ctx, path.Join(name, n)); err != nil {
			return fmt.Errorf("%s: %w", path.Join(name, n), err)
		}
	}
	return nil
}

// entry packs one name with everything below it.
func (p *packer) entry(ctx context.Context, name string) error {
	fi, err := p.root.Lstat(name)
	if err != nil {
		return err
	}
	st, ok := fi.Sys().(*statT)
	if !ok {
		return errors.New("no status")
	}
	if p.overlay && strings.HasPrefix(path.Base(name), whiteoutPrefix) {
		return fmt.Errorf("%w: the name means a deletion in a layer", ErrNotPackable)
	}
	hdr := header(name, st)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return p.regular(hdr, name, st)
	case unix.S_IFDIR:
		return p.directory(ctx, hdr, name)
	case unix.S_IFLNK:
		hdr.Typeflag = tar.TypeSymlink
		if hdr.Linkname, err = p.root.Readlink(name); err != nil {
			return err
		}
		return p.linked(hdr, name, st)
	case unix.S_IFIFO:
		hdr.Typeflag = tar.TypeFifo
		return p.linked(hdr, name, st)
	case unix.S_IFCHR:
		if p.overlay && st.Rdev == 0 {
			return p.whiteout(name)
		}
	case unix.S_IFSOCK:
		// CRIU binds the sockets of the processes anew.
		return nil
	}
	return fmt.Errorf("%w: a device node", ErrNotPackable)
}

// whiteout records that a name of the lower layers was deleted.
func (p *packer) whiteout(name string) error {
	return p.tw.WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg,
		Name:     path.Join(path.Dir(name), whiteoutPrefix+path.Base(name)),
		ModTime:  time.Unix(0, 0),
	})
}

func (p *packer) directory(ctx context.Context, hdr *tar.Header, name string) error {
	d, err := p.root.OpenFile(name, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	marks, err := p.attributes(d, hdr)
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	hdr.Typeflag = tar.TypeDir
	hdr.Name += "/"
	if err := p.tw.WriteHeader(hdr); err != nil {
		return err
	}
	if marks.opaque {
		err := p.tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: path.Join(name, opaqueMarker), ModTime: time.Unix(0, 0)})
		if err != nil {
			return err
		}
	}
	return p.dir(ctx, name)
}

func (p *packer) regular(hdr *tar.Header, name string, st *statT) error {
	if first, ok := p.seen(name, st); ok {
		return p.hardLink(hdr, first)
	}
	f, err := p.root.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if !fi.Mode().IsRegular() {
		return errors.New("the file changed while it was packed")
	}
	marks, err := p.attributes(f, hdr)
	if err != nil {
		return err
	}
	if marks.whiteout {
		return p.whiteout(name)
	}
	hdr.Typeflag = tar.TypeReg
	hdr.Size = fi.Size()
	if err := p.tw.WriteHeader(hdr); err != nil {
		return err
	}
	if n, err := io.Copy(p.tw, io.LimitReader(f, hdr.Size)); err != nil || n != hdr.Size {
		return fmt.Errorf("the file changed while it was packed: %d of %d bytes (%w)", n, hdr.Size, err)
	}
	return nil
}

// linked packs a file without content.
func (p *packer) linked(hdr *tar.Header, name string, st *statT) error {
	if first, ok := p.seen(name, st); ok {
		return p.hardLink(hdr, first)
	}
	return p.tw.WriteHeader(hdr)
}

// seen returns the name under which a file with several names was packed first.
func (p *packer) seen(name string, st *statT) (string, bool) {
	if st.Nlink < 2 {
		return "", false
	}
	key := inode{st.Dev, st.Ino}
	first, ok := p.links[key]
	if !ok {
		p.links[key] = name
	}
	return first, ok
}

func (p *packer) hardLink(hdr *tar.Header, first string) error {
	hdr.Typeflag, hdr.Linkname, hdr.Size = tar.TypeLink, first, 0
	return p.tw.WriteHeader(hdr)
}

// overlayMarks are what the overlay's own attributes say of a file.
type overlayMarks struct{ opaque, whiteout bool }

// attributes reads the extended attributes of an open file: those to carry go
// into the header, the overlay's are interpreted.
func (p *packer) attributes(f *os.File, hdr *tar.Header) (overlayMarks, error) {
	var marks overlayMarks
	names, err := listAttributes(f)
	if err != nil {
		return marks, err
	}
	for _, attr := range names {
		own, isOverlay := overlayAttribute(attr)
		if p.overlay && isOverlay {
			if err := marks.add(f, attr, own); err != nil {
				return marks, err
			}
			continue
		}
		if !carried(attr) {
			continue
		}
		value, err := getAttribute(f, attr)
		if err != nil {
			return marks, err
		}
		if hdr.PAXRecords == nil {
			hdr.PAXRecords = map[string]string{}
		}
		hdr.PAXRecords[xattrPrefix+attr] = string(value)
	}
	return marks, nil
}

func overlayAttribute(attr string) (string, bool) {
	if own, ok := strings.CutPrefix(attr, "trusted.overlay."); ok {
		return own, true
	}
	return strings.CutPrefix(attr, "user.overlay.")
}

// add interprets an attribute of the overlay. With redirect or metacopy the
// upper directory alone does not tell what a file is.
func (m *overlayMarks) add(f *os.File, attr, own string) error {
	switch own {
	case "opaque":
		value, err := getAttribute(f, attr)
		if err != nil {
			return err
		}
		// "x" only announces whiteouts in the form of attributes below.
		m.opaque = bytes.Equal(value, []byte("y"))
	case "whiteout":
		m.whiteout = true
	case "redirect", "metacopy":
		return fmt.Errorf("%w: the overlay uses %s", ErrNotPackable, own)
	}
	// origin, impure, nlink, uuid, …: the overlay's bookkeeping.
	return nil
}

// header takes over what a file's status says. The format keeps nanoseconds:
// programs compare modification times.
func header(name string, st *statT) *tar.Header {
	return &tar.Header{
		Name:    name,
		Mode:    int64(st.Mode & 0o7777),
		Uid:     int(st.Uid),
		Gid:     int(st.Gid),
		ModTime: time.Unix(st.Mtim.Unix()),
		Format:  tar.FormatPAX,
	}
}
