// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package pagemap

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/pagemap"
)

func at(page uint64) uint64 { return page * pageSize }

func bytes(pages int64) int64 { return pages * int64(pageSize) }

func TestPlan(t *testing.T) {
	base := []Entry{{at(10), 4, Present | Lazy}, {at(20), 2, Present}, {at(22), 2, Present | Lazy}}
	extra := []Entry{{at(9), 1, Present}, {at(16), 2, Present}}
	live := []Entry{{at(9), 1, Present}, {at(10), 4, Present | Lazy}, {at(16), 2, Present}, {at(20), 2, Present}, {at(23), 1, Present | Lazy}}
	for name, c := range map[string]struct {
		of   Memory
		dump []Entry
		want *Plan
	}{
		"all of it anew": {
			Memory{},
			[]Entry{{at(10), 4, Present}, {at(14), 1, Present}},
			&Plan{Live: []Entry{{at(10), 5, Present}}, Extra: []Entry{{at(10), 5, Present}}, List: []Entry{{at(10), 5, Present}}, Size: bytes(5),
				Fresh: []Move{{0, 0, bytes(5), false}}, FreshBytes: bytes(5)},
		},
		"nothing changed": {
			Memory{Base: base, Live: base},
			[]Entry{{at(10), 4, Parent}, {at(20), 4, Parent}},
			&Plan{Live: base, List: []Entry{{at(10), 4, Parent}, {at(20), 4, Parent}}},
		},
		"a page in the middle": {
			Memory{Base: base, Live: base},
			[]Entry{{at(10), 1, Parent}, {at(11), 1, Present | Lazy}, {at(12), 2, Parent}, {at(20), 4, Parent}},
			&Plan{Live: base, List: []Entry{{at(10), 4, Parent}, {at(20), 4, Parent}}, Fresh: []Move{{0, bytes(1), bytes(1), true}}, FreshBytes: bytes(1)},
		},
		"a page before all others": {
			Memory{Base: base, Live: base},
			[]Entry{{at(9), 2, Present | Lazy}, {at(11), 3, Parent}},
			&Plan{Live: []Entry{{at(9), 5, Present | Lazy}}, Extra: []Entry{{at(9), 1, Present | Lazy}}, List: []Entry{{at(9), 1, Present | Lazy}, {at(10), 4, Parent}}, Size: bytes(1),
				Fresh: []Move{{0, 0, bytes(1), false}, {bytes(1), 0, bytes(1), true}}, FreshBytes: bytes(2)},
		},
		"unmapped, and more in between": {
			Memory{Base: base, Extra: extra, Live: live},
			[]Entry{{at(12), 6, Present}, {at(23), 1, Parent}},
			&Plan{Live: []Entry{{at(12), 6, Present}, {at(23), 1, Present | Lazy}}, Extra: []Entry{{at(14), 4, Present}}, List: []Entry{{at(12), 2, Parent}, {at(14), 4, Present}, {at(23), 1, Parent}},
				Size: bytes(4), Fresh: []Move{{0, bytes(2), bytes(2), true}, {bytes(2), 0, bytes(4), false}}, FreshBytes: bytes(6)},
		},
		"extra pages are kept": {
			Memory{Base: base, Extra: extra, Live: live},
			[]Entry{{at(8), 1, Present}, {at(9), 2, Parent}, {at(17), 1, Parent}},
			&Plan{Live: []Entry{{at(8), 2, Present}, {at(10), 1, Present | Lazy}, {at(17), 1, Present}}, Extra: []Entry{{at(8), 2, Present}, {at(17), 1, Present}},
				List: []Entry{{at(8), 2, Present}, {at(10), 1, Parent}, {at(17), 1, Present}}, Size: bytes(3), Fresh: []Move{{0, 0, bytes(1), false}}, FreshBytes: bytes(1),
				Kept: []Move{{0, bytes(1), bytes(1), false}, {bytes(2), bytes(2), bytes(1), false}}},
		},
		"a page that was never dumped":   {Memory{Base: base, Live: base}, []Entry{{at(10), 5, Parent}}, nil},
		"a page that was unmapped since": {Memory{Base: base, Extra: extra, Live: live}, []Entry{{at(22), 1, Parent}}, nil},
		"a page that is nowhere":         {Memory{Live: live}, []Entry{{at(9), 1, Parent}}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			m := &Map{Entries: c.dump}
			got, err := m.On(c.of)
			if c.want == nil {
				if !errors.Is(err, ErrMap) {
					t.Errorf("got %+v, %v", got, err)
				}
				return
			}
			if err != nil || !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %+v, %v\nwant %+v", got, err, c.want)
			}
		})
	}
}

func TestWhole(t *testing.T) {
	of := Memory{
		Base:  []Entry{{at(10), 4, Present}, {at(20), 4, Present}},
		Extra: []Entry{{at(9), 1, Present}, {at(14), 4, Present}},
		Live:  []Entry{{at(9), 3, Present}, {at(13), 2, Present}, {at(17), 1, Present}, {at(22), 1, Present}},
	}
	base, extra, err := of.Whole()
	wantBase := []Move{{0, bytes(1), bytes(2), false}, {bytes(3), bytes(3), bytes(1), false}, {bytes(6), bytes(6), bytes(1), false}}
	wantExtra := []Move{{0, 0, bytes(1), false}, {bytes(1), bytes(4), bytes(1), false}, {bytes(4), bytes(5), bytes(1), false}}
	if err != nil || !reflect.DeepEqual(base, wantBase) || !reflect.DeepEqual(extra, wantExtra) {
		t.Errorf("got %v and %v, %v", base, extra, err)
	}
	of.Live = append(of.Live, Entry{at(30), 1, Present})
	if _, _, err := of.Whole(); !errors.Is(err, ErrMap) {
		t.Errorf("a page that is nowhere: %v", err)
	}
}

var good = Entry{at(1), 1, Present}

func TestDecodeRefuses(t *testing.T) {
	head, err := (&Map{PagesID: 1}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	encode := func(entries ...Entry) []byte {
		b := slices.Clone(head)
		for _, e := range entries {
			b = appendRecord(b, entryAddr, e.Addr, entryPages, e.Pages, entryFlags, uint64(e.Flags))
		}
		if _, err := (&Map{PagesID: 1, Entries: entries}).Encode(); len(entries) > 0 && (err == nil) != (entries[0] == good) {
			t.Errorf("encoding %+v: %v", entries, err)
		}
		return b
	}
	whole := encode(good)
	for name, b := range map[string][]byte{
		"nothing":           nil,
		"another image":     append([]byte{1}, whole[1:]...),
		"cut off":           whole[:len(whole)-1],
		"out of order":      encode(Entry{at(2), 2, Present}, Entry{at(3), 1, Present}),
		"nowhere":           encode(Entry{at(1), 1, Lazy}),
		"in two places":     encode(Entry{at(1), 1, Present | Parent}),
		"an unknown flag":   encode(Entry{at(1), 1, Present | 8}),
		"not a page":        encode(Entry{at(1) + 1, 1, Present}),
		"no pages":          encode(Entry{at(1), 0, Present}),
		"beyond all memory": encode(Entry{1 << 60, 1, Present}),
		"an unknown field":  appendRecord(slices.Clone(whole), entryAddr, at(9), entryPages, 1, maxField+1, 1),
		"no address":        appendRecord(slices.Clone(whole), entryPages, 1),
		"too many flags":    appendRecord(slices.Clone(whole), entryAddr, at(9), entryPages, 1, entryFlags, 1<<32|uint64(Present)),
	} {
		if m, err := Decode(b); !errors.Is(err, ErrMap) {
			t.Errorf("%s: got %+v, %v", name, m, err)
		}
	}
}

// The messages are those of CRIU's own definition.
func TestImageIsCRIUs(t *testing.T) {
	m := &Map{PagesID: 3, Entries: []Entry{{at(1), 2, Present | Lazy}, {at(1 << 35), 1, Parent}}}
	b, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "pagemap-1.img")
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	img, err := crit.New(f, nil, "", false, true).Decode(&pagemap.PagemapEntry{})
	if err != nil || img.Magic != "PAGEMAP" || len(img.Entries) != 3 {
		t.Fatalf("read as %+v, %v", img, err)
	}
	if head, ok := img.Entries[0].Message.(*pagemap.PagemapHead); !ok || head.GetPagesId() != m.PagesID {
		t.Errorf("head %v", img.Entries[0])
	}
	for i, want := range m.Entries {
		got, ok := img.Entries[i+1].Message.(*pagemap.PagemapEntry)
		if !ok || got.GetVaddr() != want.Addr || uint64(got.GetNrPages()) != want.Pages || got.GetFlags() != want.Flags {
			t.Errorf("entry %v, want %+v", img.Entries[i+1], want)
		}
	}
}

// What can be read at all can be written and read again, and merged with itself.
func FuzzDecode(f *testing.F) {
	for _, m := range []*Map{{PagesID: 3}, {PagesID: 1, Entries: []Entry{{at(1), 2, Present | Lazy}, {at(7), 1, Parent}}}} {
		b, err := m.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Decode(b)
		if err != nil {
			return
		}
		b, err = m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := Decode(b)
		if err != nil || !reflect.DeepEqual(m, again) {
			t.Fatalf("%+v became %+v, %v", m, again, err)
		}
		all := make([]Entry, len(m.Entries))
		for i, e := range m.Entries {
			all[i] = Entry{e.Addr, e.Pages, Present}
		}
		for _, of := range []Memory{{Base: all, Live: all}, {Extra: all, Live: all}} {
			p, err := m.On(of)
			if err != nil || p.Size != Bytes(of.Extra) || Bytes(p.Live) != Bytes(all) || p.Moved() != 0 {
				t.Fatalf("merged with all its pages: %+v, %v", p, err)
			}
		}
	})
}
