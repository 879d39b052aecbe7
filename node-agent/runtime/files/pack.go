// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package files

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Whiteouts in the form of the OCI image specification.
const (
	whiteoutPrefix = ".wh."
	opaqueMarker   = ".wh..wh..opq"
)

// Records of an entry that tar has nothing for.
const (
	recordPrefix = "GODWIT."
	// recordKind: the entry is no file, but stands for a socket or a removed name.
	recordKind  = recordPrefix + "kind"
	kindSocket  = "socket"
	kindRemoved = "removed"
	// recordSize: the file has this many bytes, and the entry has some spans of them.
	recordSize = recordPrefix + "size"
	// recordPatch: what the entry does not have is as it was. Without it, it is a hole.
	recordPatch = recordPrefix + "patch"
)

// packer writes a directory tree, or what has changed of it, as a tar stream. It never
// leaves the tree, even if somebody exchanges directories for links meanwhile.
type packer struct {
	root    *os.File // of the tree, opened as a path
	out     io.Writer
	overlay bool // the tree is an overlay's upper directory
	// still: nobody writes into the tree.
	still bool
	busy  *busy
	// racyFrom: what was changed later may change again within the same time.
	racyFrom time.Time

	since *copied
	plan  *plan
	// tw is nil until something is written.
	tw *tar.Writer
	// now is what is copied when the archive is applied.
	now *copied
	// packed are the names under which files with several names were packed first.
	packed map[uint64]string
	buf    []byte
}

// pack writes what has changed and returns what is copied then. Nothing is written when
// nothing has.
func (p *packer) pack(ctx context.Context) (*copied, error) {
	entries, err := scan(ctx, p.root, p.overlay, p.still)
	if err != nil {
		return nil, err
	}
	if p.since == nil {
		p.since = &copied{}
	}
	p.plan, p.packed = makePlan(entries, p.since), map[uint64]string{}
	p.now = &copied{records: make(map[string]*record, len(entries))}
	for i := range entries {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		e := &entries[i]
		err := p.entry(e, p.plan.todo[i])
		if !p.still && vanished(err) {
			continue // the next time it is packed as new, or removed
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", e.name, err)
		}
	}
	if p.tw != nil {
		return p.now, p.tw.Close()
	}
	return p.now, nil
}

// header writes a header, and begins the archive.
func (p *packer) header(hdr *tar.Header) error {
	if p.tw == nil {
		p.tw = tar.NewWriter(p.out)
	}
	return p.tw.WriteHeader(hdr)
}

// remember notes what was packed of a name.
func (p *packer) remember(e *entry, st *unix.Stat_t, blocks []uint64) {
	r := newRecord(st)
	r.Opaque, r.blocks, r.known = e.opaque, blocks, true
	if !p.still {
		r.Busy = e.isRegular() && p.busy.has(e, p.overlay)
		r.Racy = !time.Unix(st.Ctim.Unix()).Before(p.racyFrom)
	}
	p.now.records[e.name] = r
}

// entry packs one name.
func (p *packer) entry(e *entry, what todo) error {
	if what == nothing {
		r := *p.since.records[e.name]
		r.Busy = !p.still && e.isRegular() && p.busy.has(e, p.overlay)
		p.now.records[e.name] = &r
		return nil
	}
	if linked(&e.st) {
		if first, ok := p.packed[e.st.Ino]; ok {
			return p.link(e, what, first)
		}
	}
	if err := p.first(e, what); err != nil {
		return err
	}
	if linked(&e.st) {
		p.packed[e.st.Ino] = e.name
	}
	return nil
}

// link packs one more name of a file.
func (p *packer) link(e *entry, what todo, first string) error {
	if what == whole {
		hdr := header(e.name, &e.st)
		hdr.Typeflag, hdr.Linkname = tar.TypeLink, first
		if err := p.header(hdr); err != nil {
			return err
		}
	}
	r := *p.now.records[first]
	r.Busy = r.Busy || !p.still && e.isRegular() && p.busy.has(e, p.overlay)
	p.now.records[e.name] = &r
	return nil
}

// first packs a file under the first of its names.
func (p *packer) first(e *entry, what todo) error {
	hdr := header(e.name, &e.st)
	switch e.st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return p.regular(e, hdr, what)
	case unix.S_IFDIR:
		return p.directory(e, hdr)
	case unix.S_IFLNK:
		hdr.Typeflag = tar.TypeSymlink
		var err error
		if hdr.Linkname, err = p.readLink(e); err != nil {
			return err
		}
	case unix.S_IFIFO:
		hdr.Typeflag = tar.TypeFifo
	case unix.S_IFSOCK:
		// One that a process is bound to CRIU removes and makes anew.
		hdr.Typeflag, hdr.PAXRecords = tar.TypeReg, map[string]string{recordKind: kindSocket}
	default:
		if e.isDevice(p.overlay) {
			return fmt.Errorf("%w: a device node", ErrNotPackable)
		}
		hdr = whiteout(e.name)
	}
	if err := p.header(hdr); err != nil {
		return err
	}
	p.remember(e, &e.st, nil)
	return nil
}

func (p *packer) readLink(e *entry) (string, error) {
	d, err := openBeneath(p.root, path.Dir(e.name), unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return "", err
	}
	defer d.Close()
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(d.Fd()), path.Base(e.name), buf)
	if errors.Is(err, unix.EINVAL) {
		err = errReplaced
	}
	return string(buf[:max(n, 0)]), err
}

// whiteout records that a name of the lower layers was deleted.
func whiteout(name string) *tar.Header {
	return marker(path.Join(path.Dir(name), whiteoutPrefix+path.Base(name)))
}

// marker is a file that means something.
func marker(name string) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeReg, Name: name, ModTime: time.Unix(0, 0)}
}

func (p *packer) directory(e *entry, hdr *tar.Header) error {
	if e.name == "." && p.overlay {
		p.remember(e, &e.st, nil) // it is the image's
		return p.removals(e.name)
	}
	d, err := openBeneath(p.root, e.name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	_, err = p.attributes(d, hdr)
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	hdr.Typeflag = tar.TypeDir
	hdr.Name += "/"
	if err := p.header(hdr); err != nil {
		return err
	}
	p.remember(e, &e.st, nil)
	if p.plan.cleared[e.name] && e.opaque {
		return p.header(marker(path.Join(e.name, opaqueMarker)))
	}
	return p.removals(e.name)
}

// removals records which names of a directory are gone.
func (p *packer) removals(dir string) error {
	for _, base := range p.plan.removed[dir] {
		hdr := marker(path.Join(dir, base))
		hdr.PAXRecords = map[string]string{recordKind: kindRemoved}
		if err := p.header(hdr); err != nil {
			return err
		}
	}
	return nil
}

func (p *packer) regular(e *entry, hdr *tar.Header, what todo) error {
	f, err := openBeneath(p.root, e.name, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return err
	}
	defer f.Close()
	// As it is before it is read: what is written later shows.
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Ino != e.st.Ino {
		return errReplaced
	}
	*hdr = *header(e.name, &st)
	marks, err := p.attributes(f, hdr)
	if err != nil {
		return err
	}
	if marks.whiteout {
		p.remember(e, &st, nil)
		return p.header(whiteout(e.name))
	}
	if p.buf == nil {
		p.buf = make([]byte, batch)
	}
	c := &content{f: f, size: st.Size, still: p.still, buf: p.buf}
	var hashes []uint64
	if what == difference {
		hashes, err = p.patch(e, &st, hdr, c)
	} else {
		hashes, err = p.content(hdr, c)
	}
	if err != nil {
		return err
	}
	p.remember(e, &st, hashes)
	return nil
}

// content packs all of a file.
func (p *packer) content(hdr *tar.Header, c *content) ([]uint64, error) {
	data, err := c.data()
	if err != nil {
		return nil, err
	}
	list := spans(c.size, func(b int) bool { return data[b] })
	hashes := c.holes()
	hdr.Typeflag = tar.TypeReg
	if total(list) == c.size {
		hdr.Size = c.size
		if err := p.header(hdr); err != nil {
			return nil, err
		}
		return hashes, c.copyTo(p.tw, list, hashes)
	}
	return hashes, p.spans(hdr, c, list, hashes)
}

// spans packs parts of a file.
func (p *packer) spans(hdr *tar.Header, c *content, list []span, hashes []uint64) error {
	addRecord(hdr, recordSize, strconv.FormatInt(c.size, 10))
	hdr.Typeflag, hdr.Size = tar.TypeReg, spansSize(list)
	if err := p.header(hdr); err != nil {
		return err
	}
	if _, err := p.tw.Write(encodeSpans(list)); err != nil {
		return err
	}
	return c.copyTo(p.tw, list, hashes)
}

// patch packs what has changed of a file that was packed before, which may be nothing.
func (p *packer) patch(e *entry, st *unix.Stat_t, hdr *tar.Header, c *content) ([]uint64, error) {
	have := p.since.records[e.name]
	hashes, err := c.hash()
	if err != nil {
		return nil, err
	}
	// A hash is of what is in a block and of how much that is. Beyond its former end
	// the file is one hole on the target.
	holes := c.holes()
	list := spans(c.size, func(b int) bool {
		if b < len(have.blocks) {
			return hashes[b] != have.blocks[b]
		}
		return hashes[b] != holes[b]
	})
	if len(list) == 0 && have.same(st) && !have.Racy {
		return hashes, nil
	}
	addRecord(hdr, recordPatch, "1")
	return hashes, p.spans(hdr, c, list, hashes)
}

func addRecord(hdr *tar.Header, key, value string) {
	records := map[string]string{key: value}
	maps.Copy(records, hdr.PAXRecords)
	hdr.PAXRecords = records
}

// header takes over what a file's status says. The format keeps nanoseconds:
// programs compare modification times.
func header(name string, st *unix.Stat_t) *tar.Header {
	return &tar.Header{
		Name:    name,
		Mode:    int64(st.Mode & 0o7777),
		Uid:     int(st.Uid),
		Gid:     int(st.Gid),
		ModTime: time.Unix(st.Mtim.Unix()),
		Format:  tar.FormatPAX,
	}
}
