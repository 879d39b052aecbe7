// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Package pagemap reads CRIU's lists of memory pages and finds out how a dump and the
// one that it builds on come together as one. An image pagemap-N.img lists the pages of
// process N in the order of their addresses; those that are present follow one another
// in the same order, without gaps, in the file pages-M.img that its head names
// (criu/pagemap.c, images/pagemap.proto). It does no input or output.
package pagemap

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
)

// ErrMap: the list is none that can be merged. The dumps can be restored as they are.
var ErrMap = errors.New("list of memory pages")

// Flags of an entry (criu/include/pagemap.h).
const (
	// Parent: the pages are in the dump that this one builds on.
	Parent uint32 = 1 << iota
	// Lazy: the pages may be given to the process when it asks for them.
	Lazy
	// Present: the pages are in this dump.
	Present
)

const (
	// The beginning of every image, and what says that it is a list of pages
	// (criu/include/magic.h).
	magicCommon  uint32 = 0x54564319
	magicPagemap uint32 = 0x56084025

	// maxAddress is beyond every address of a process.
	maxAddress = 1 << 57
	// maxRecord is larger than any record of such an image, smallRecord about as large as
	// the usual one.
	maxRecord   = 1 << 10
	smallRecord = 16
)

var pageSize = uint64(os.Getpagesize())

// Entry is a range of pages with the same fate.
type Entry struct {
	// Addr is its first address, Pages the number of its pages.
	Addr, Pages uint64
	Flags       uint32
}

func (e Entry) end() uint64   { return e.Addr + e.bytes() }
func (e Entry) bytes() uint64 { return e.Pages * pageSize }

// Bytes is the size of the pages.
func Bytes(entries []Entry) int64 {
	n := int64(0)
	for _, e := range entries {
		n += int64(e.bytes())
	}
	return n
}

// Map is the list of one process.
type Map struct {
	// PagesID is the number of the file with the pages.
	PagesID uint32
	// Entries in ascending order, none of which overlap.
	Entries []Entry
}

// Fields of the messages (images/pagemap.proto). They are read and written here, for a
// list has thousands of entries and is read while the pod stands still: BenchmarkAssemble.
const (
	headPagesID = 1

	entryAddr     = 1
	entryPages    = 2
	entryInParent = 3
	entryFlags    = 4
	maxField      = entryFlags
)

// Decode reads an image that may have been written by anybody. ErrMap when it is no such
// list, or has something in it that this package does not know.
func Decode(b []byte) (*Map, error) {
	if len(b) < 8 || binary.LittleEndian.Uint32(b) != magicCommon || binary.LittleEndian.Uint32(b[4:]) != magicPagemap {
		return nil, fmt.Errorf("%w: it does not begin like one", ErrMap)
	}
	b = b[8:]
	var f fields
	b, err := f.read(b, 1<<headPagesID)
	if err != nil {
		return nil, err
	}
	if f.value[headPagesID] > math.MaxUint32 {
		return nil, fmt.Errorf("%w: file %d", ErrMap, f.value[headPagesID])
	}
	m := &Map{PagesID: uint32(f.value[headPagesID]), Entries: make([]Entry, 0, len(b)/smallRecord)}
	for len(b) > 0 {
		if b, err = f.read(b, 1<<entryAddr|1<<entryPages); err != nil {
			return nil, err
		}
		flags := f.value[entryFlags]
		switch {
		case f.value[entryInParent] != 0:
			flags |= uint64(Parent)
		case f.has&(1<<entryFlags) == 0:
			flags = uint64(Present) // as CRIU takes it
		case flags > math.MaxUint32:
			return nil, fmt.Errorf("%w: flags %#x", ErrMap, flags)
		}
		m.Entries = append(m.Entries, Entry{Addr: f.value[entryAddr], Pages: f.value[entryPages], Flags: uint32(flags)})
	}
	return m, m.check()
}

// fields of one message, all of which are numbers. has has a bit for each that is there.
type fields struct {
	value [maxField + 1]uint64
	has   uint
}

// read takes a message with the needed fields off b.
func (f *fields) read(b []byte, needed uint) ([]byte, error) {
	*f = fields{}
	if len(b) < 4 {
		return nil, fmt.Errorf("%w: it is cut off", ErrMap)
	}
	n := binary.LittleEndian.Uint32(b)
	b = b[4:]
	if n > maxRecord || uint64(n) > uint64(len(b)) {
		return nil, fmt.Errorf("%w: a record of %d bytes", ErrMap, n)
	}
	rest := b[n:]
	for b = b[:n]; len(b) > 0; {
		number, kind, size := protowire.ConsumeTag(b)
		if size < 0 || kind != protowire.VarintType || number > maxField {
			return nil, fmt.Errorf("%w: field %d of kind %d", ErrMap, number, kind)
		}
		v, more := protowire.ConsumeVarint(b[size:])
		if more < 0 {
			return nil, fmt.Errorf("%w: %w", ErrMap, protowire.ParseError(more))
		}
		f.value[number], f.has = v, f.has|1<<number
		b = b[size+more:]
	}
	if f.has&needed != needed {
		return nil, fmt.Errorf("%w: a record lacks fields", ErrMap)
	}
	return rest, nil
}

// check says whether the entries are in order and each is of a kind that is known.
func (m *Map) check() error {
	last := uint64(0)
	for i, e := range m.Entries {
		switch {
		case e.Addr%pageSize != 0 || e.Pages == 0 || e.Pages > math.MaxUint32:
			return fmt.Errorf("%w: entry %d: %d pages at %#x", ErrMap, i, e.Pages, e.Addr)
		case e.Addr < last || e.Addr > maxAddress || e.bytes() > maxAddress:
			return fmt.Errorf("%w: entry %d is not in order", ErrMap, i)
		case e.Flags&^Lazy != Parent && e.Flags&^Lazy != Present:
			return fmt.Errorf("%w: entry %d has the flags %#x", ErrMap, i, e.Flags)
		}
		last = e.end()
	}
	return nil
}

// Encode writes the image. ErrMap when the list is none that Decode would read.
func (m *Map) Encode() ([]byte, error) {
	if err := m.check(); err != nil {
		return nil, err
	}
	b := binary.LittleEndian.AppendUint32(make([]byte, 0, 16+len(m.Entries)*2*smallRecord), magicCommon)
	b = binary.LittleEndian.AppendUint32(b, magicPagemap)
	b = appendRecord(b, headPagesID, uint64(m.PagesID))
	for _, e := range m.Entries {
		b = appendRecord(b, entryAddr, e.Addr, entryPages, e.Pages, entryFlags, uint64(e.Flags))
	}
	return b, nil
}

// appendRecord appends a message of pairs of a field's number and its value.
func appendRecord(b []byte, pairs ...uint64) []byte {
	at := len(b)
	b = append(b, 0, 0, 0, 0)
	for i := 0; i < len(pairs); i += 2 {
		b = protowire.AppendTag(b, protowire.Number(pairs[i]), protowire.VarintType)
		b = protowire.AppendVarint(b, pairs[i+1])
	}
	binary.LittleEndian.PutUint32(b[at:], uint32(len(b)-at-4))
	return b
}

// OnParent says whether pages of the list are in the dump that it builds on.
func (m *Map) OnParent() bool {
	return slices.ContainsFunc(m.Entries, func(e Entry) bool { return e.Flags&Parent != 0 })
}

// Memory is what dumps of a process have come to. It is in two files, so that pages that
// are new need not have all others give way to them.
type Memory struct {
	// Base are the pages of the file in which each keeps its place, those included that the
	// process does not have any more. Extra are those of the other one.
	Base, Extra []Entry
	// Live are the pages that the process has. All entries are present.
	Live []Entry
}

// Move is a range of bytes of a file with pages, and where it belongs in another one: in
// that with the base, or in the extra one.
type Move struct {
	From, To, Bytes int64
	Base            bool
}

// Plan is how a dump and the memory that it builds on become one.
type Plan struct {
	// Live and Extra are those of the memory afterwards. List is it as a dump that has the
	// extra pages and builds on one that has the base.
	Live, Extra, List []Entry
	// Size of the extra file, in bytes.
	Size int64
	// Fresh are in the dump's own file, in its order; FreshBytes is what that file has to
	// have. Kept move from one place in the extra file to another, those that stay where
	// they are included.
	Fresh, Kept []Move
	FreshBytes  int64
}

// Moved is how many bytes of the extra file cannot stay where they are.
func (p *Plan) Moved() int64 {
	n := int64(0)
	for _, m := range p.Kept {
		if m.From != m.To {
			n += m.Bytes
		}
	}
	return n
}

// On plans the merging of a dump with the memory that it builds on. ErrMap when pages are
// missing there.
func (m *Map) On(of Memory) (*Plan, error) {
	p := &Plan{}
	base, extra, live := cursor{entries: of.Base}, cursor{entries: of.Extra}, cursor{entries: of.Live}
	for _, e := range m.Entries {
		for at := e.Addr; at < e.end(); {
			end := e.end()
			_, place, inBase := base.seek(at)
			end = min(end, base.bound(at))
			flags := e.Flags
			if e.Flags&Present == 0 {
				was, _, ok := live.seek(at)
				if !ok {
					return nil, fmt.Errorf("%w: %#x is in no earlier dump", ErrMap, at)
				}
				end, flags = min(end, was.end()), was.Flags
				if !inBase {
					have, from, ok := extra.seek(at)
					if !ok {
						return nil, fmt.Errorf("%w: %#x is nowhere", ErrMap, at)
					}
					end = min(end, have.end())
					p.Kept = add(p.Kept, Move{From: from, To: p.Size, Bytes: int64(end - at)})
				}
			} else {
				to := place
				if !inBase {
					to = p.Size
				}
				p.Fresh = add(p.Fresh, Move{From: p.FreshBytes, To: to, Bytes: int64(end - at), Base: inBase})
				p.FreshBytes += int64(end - at)
			}
			p.append(Entry{Addr: at, Pages: (end - at) / pageSize, Flags: flags}, inBase)
			at = end
		}
	}
	return p, nil
}

// append adds a range of pages that the process has.
func (p *Plan) append(e Entry, inBase bool) {
	p.Live = join(p.Live, e)
	if inBase {
		e.Flags = Parent
		p.List = join(p.List, e)
		return
	}
	p.List, p.Extra = join(p.List, e), join(p.Extra, e)
	p.Size += int64(e.bytes())
}

// join adds an entry, as a part of the last if it goes on there.
func join(entries []Entry, e Entry) []Entry {
	if n := len(entries); n > 0 {
		last := &entries[n-1]
		if last.end() == e.Addr && last.Flags == e.Flags && last.Pages+e.Pages <= math.MaxUint32 {
			last.Pages += e.Pages
			return entries
		}
	}
	return append(entries, e)
}

func add(moves []Move, m Move) []Move {
	if n := len(moves); n > 0 {
		last := &moves[n-1]
		if last.From+last.Bytes == m.From && last.To+last.Bytes == m.To && last.Base == m.Base {
			last.Bytes += m.Bytes
			return moves
		}
	}
	return append(moves, m)
}

// Whole plans how the pages of the base and of the extra file that the process has become
// one file. In the first moves From is in the base, in the others in the extra file.
func (of Memory) Whole() (base, extra []Move, err error) {
	b, x := cursor{entries: of.Base}, cursor{entries: of.Extra}
	to := int64(0)
	for _, e := range of.Live {
		for at := e.Addr; at < e.end(); {
			if have, from, ok := b.seek(at); ok {
				n := int64(min(have.end(), e.end()) - at)
				base = add(base, Move{From: from, To: to, Bytes: n})
				at, to = at+uint64(n), to+n
				continue
			}
			have, from, ok := x.seek(at)
			if !ok {
				return nil, nil, fmt.Errorf("%w: %#x is nowhere", ErrMap, at)
			}
			n := int64(min(have.end(), e.end(), b.bound(at)) - at)
			extra = add(extra, Move{From: from, To: to, Bytes: n})
			at, to = at+uint64(n), to+n
		}
	}
	return base, extra, nil
}

// cursor goes through entries that are all present.
type cursor struct {
	entries []Entry
	// offset of the first entry in the file.
	offset int64
}

// bound is where it changes after an address, which was sought, whether there are pages.
func (c *cursor) bound(addr uint64) uint64 {
	switch {
	case len(c.entries) == 0:
		return math.MaxUint64
	case c.entries[0].Addr > addr:
		return c.entries[0].Addr
	}
	return c.entries[0].end()
}

// seek returns the entry with an address, which must not be before the last one, and
// where the page is in the file.
func (c *cursor) seek(addr uint64) (Entry, int64, bool) {
	for len(c.entries) > 0 && c.entries[0].end() <= addr {
		c.offset += int64(c.entries[0].bytes())
		c.entries = c.entries[1:]
	}
	if len(c.entries) == 0 || c.entries[0].Addr > addr {
		return Entry{}, 0, false
	}
	return c.entries[0], c.offset + int64(addr-c.entries[0].Addr), true
}
