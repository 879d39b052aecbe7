// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package images

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"godwit.dev/godwit/node-agent/images/pagemap"
)

var pageBytes = uint64(os.Getpagesize())

// memory is what processes have in their pages, by the number of the process and that of
// the page.
type memory map[uint64]map[uint64]uint64

// page is the content of a page that stands for a value.
func page(value uint64) []byte {
	b := make([]byte, pageBytes)
	binary.LittleEndian.PutUint64(b, value)
	binary.LittleEndian.PutUint64(b[pageBytes-8:], value)
	return b
}

// dump writes memory as CRIU does: dirty pages, and those that are in no earlier dump, into
// this one.
func (m memory) dump(t *testing.T, dir string, earlier memory, dirty func(task, page uint64) bool) {
	t.Helper()
	pagesID := uint32(7) // not the number of the process
	for _, task := range slices.Sorted(maps.Keys(m)) {
		list := &pagemap.Map{PagesID: pagesID}
		var content bytes.Buffer
		for _, at := range slices.Sorted(maps.Keys(m[task])) {
			_, known := earlier[task][at]
			flags := pagemap.Parent
			if !known || dirty(task, at) {
				flags = pagemap.Present | pagemap.Lazy
				content.Write(page(m[task][at]))
			}
			n := len(list.Entries)
			if n > 0 && list.Entries[n-1].Flags == flags && list.Entries[n-1].Addr+list.Entries[n-1].Pages*pageBytes == at*pageBytes {
				list.Entries[n-1].Pages++
				continue
			}
			list.Entries = append(list.Entries, pagemap.Entry{Addr: at * pageBytes, Pages: 1, Flags: flags})
		}
		must(t, writeMap(dir, task, list))
		write(t, dir, pagesName(uint64(pagesID)), content.Bytes())
		pagesID++
	}
	write(t, dir, descriptorsName, []byte(`["/dev/null"]`))
	write(t, dir, "inventory.img", []byte("inventory"))
}

// restored reads memory as CRIU does, through the parents.
func restored(t *testing.T, dir string, tasks []uint64) memory {
	t.Helper()
	m := memory{}
	for _, task := range tasks {
		m[task] = map[uint64]uint64{}
		if err := readTask(dir, task, m[task]); err != nil {
			t.Fatalf("process %d: %v", task, err)
		}
	}
	return m
}

func readTask(dir string, task uint64, into map[uint64]uint64) error {
	list, err := readMap(dir, fmt.Sprintf("pagemap-%d.img", task))
	if err != nil {
		return err
	}
	earlier := map[uint64]uint64{}
	if list.OnParent() {
		if err := readTask(filepath.Join(dir, parentName), task, earlier); err != nil {
			return err
		}
	}
	content, err := os.ReadFile(filepath.Join(dir, pagesName(uint64(list.PagesID))))
	if err != nil {
		return err
	}
	for _, e := range list.Entries {
		for at := e.Addr / pageBytes; at < e.Addr/pageBytes+e.Pages; at++ {
			if e.Flags&pagemap.Parent != 0 {
				value, ok := earlier[at]
				if !ok {
					return fmt.Errorf("page %d is in no earlier dump", at)
				}
				into[at] = value
				continue
			}
			if uint64(len(content)) < pageBytes {
				return fmt.Errorf("page %d is not in the file", at)
			}
			value := binary.LittleEndian.Uint64(content)
			if !bytes.Equal(content[:pageBytes], page(value)) {
				return fmt.Errorf("page %d is torn", at)
			}
			into[at], content = value, content[pageBytes:]
		}
	}
	if len(content) > 0 {
		return fmt.Errorf("%d bytes of the file are no page", len(content))
	}
	return nil
}

func clone(m memory) memory {
	c := memory{}
	for task, pages := range m {
		c[task] = maps.Clone(pages)
	}
	return c
}

// chained makes a set of a few rounds of changing memory, which a target has read, and
// returns what it ends with. change alters the memory between the dumps.
func chained(t *testing.T, store *Store, rounds int, m memory, change func(m memory, k int)) (target *Set, digest string) {
	t.Helper()
	ctx := context.Background()
	set := newSet(t, newStore(t, store.root, ""), testUID)
	target = newSet(t, store, testUID)
	earlier := memory{}
	for k := range rounds + 1 {
		changed := clone(m)
		change(m, k)
		dirty := func(task, page uint64) bool { return m[task][page] != changed[task][page] }
		prepare := func() (string, error) { return set.PrepareRound(ctx, container, k) }
		if k == rounds {
			prepare = func() (string, error) {
				dir, pages, err := set.StageFinal(ctx, container, k, filepath.Join(t.TempDir(), "stage"))
				// There is none for a second process.
				return dir, errors.Join(err, link(filepath.Join(pages, pagesName(7)), filepath.Join(dir, pagesName(7))))
			}
		}
		dir, err := prepare()
		must(t, err)
		m.dump(t, dir, earlier, dirty)
		if p := Parent(k); p != "" {
			must(t, os.Symlink(p, filepath.Join(dir, "parent")))
		}
		if k < rounds {
			must(t, set.HashRound(ctx, container, k))
			must(t, target.VerifyRound(ctx, container, k))
		}
		earlier = clone(m)
	}
	must(t, set.ShareDescriptors(ctx, container))
	sealed, err := set.Seal(ctx)
	must(t, err)
	return target, sealed.Digest
}

func mergingStore(t *testing.T) *Store {
	t.Helper()
	s, err := Open(t.TempDir(), Options{StateDir: t.TempDir(), LocalDir: t.TempDir()})
	must(t, err)
	return s
}

// assemble verifies and assembles a set and returns where it is restored from.
func assemble(t *testing.T, set *Set, digest string) (Assembly, string) {
	t.Helper()
	_, err := set.Verify(context.Background(), digest)
	must(t, err)
	a, err := set.Assembled(container)
	must(t, err)
	dir, err := set.RestoreDir(container, t.TempDir())
	must(t, err)
	if !strings.HasPrefix(dir, set.store.localDir) {
		t.Fatalf("restored from %s", dir)
	}
	return a, dir
}

// A process that writes, maps, unmaps, forks and ends while it is copied has the memory in
// the assembled dump that it had in the last one of the chain.
func TestAssembledMemoryIsThatOfTheChain(t *testing.T) {
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 1))
		store := mergingStore(t)
		store.maxExtra = int64(r.IntN(60)) * int64(pageBytes)
		m, next := memory{1: {}}, uint64(0)
		change := func(m memory, k int) {
			switch {
			case k == 0:
				for at := range uint64(40) {
					m[1][100+2*at+at%2] = at
				}
			case r.IntN(3) == 0 && len(m) < 4:
				m[uint64(10+k)] = maps.Clone(m[1])
			case r.IntN(4) == 0 && len(m) > 1:
				delete(m, slices.Max(slices.Collect(maps.Keys(m))))
			}
			for task := range m {
				for range r.IntN(12) {
					next++
					switch at := 80 + r.Uint64N(160); r.IntN(5) {
					case 0:
						delete(m[task], at)
					default:
						m[task][at] = 1000 + next
					}
				}
				m[task][80] = next + 1 // a process has a page
			}
		}
		set, digest := chained(t, store, 1+r.IntN(4), m, change)
		_, dir := assemble(t, set, digest)
		if got := restored(t, dir, slices.Collect(maps.Keys(m))); !maps.EqualFunc(got, m, maps.Equal) {
			t.Fatalf("seed %d: the memory is another one", seed)
		}
	}
}

// steady changes some pages and no more.
func steady(m memory, k int) {
	for at := range uint64(64) {
		if k == 0 || at%8 == uint64(k) {
			m[1][at+16] = uint64(k)<<32 + at
		}
	}
}

// grows maps a page before all others, which leaves none of them where it was.
func grows(m memory, k int) {
	steady(m, k)
	m[1][15-uint64(k)] = uint64(k)
}

// shrinks unmaps a page each time.
func shrinks(m memory, k int) {
	steady(m, k)
	delete(m[1], 16+uint64(k))
}

func TestAssembleMakesOneDumpWhereItIsCheap(t *testing.T) {
	for name, c := range map[string]struct {
		change func(memory, int)
		extra  int64
		want   Assembly
	}{
		"same pages": {steady, 0, Assembly{Whole: 1}},
		"new pages":  {grows, 1 << 20, Assembly{Chained: 1, ExtraBytes: 3 * int64(pageBytes)}},
		// Written anew in the last round; one more is mapped then.
		"many new pages": {grows, int64(pageBytes), Assembly{Chained: 1, ExtraBytes: int64(pageBytes)}},
		"fewer pages":    {shrinks, 1 << 20, Assembly{Chained: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			store, m := mergingStore(t), memory{1: {}}
			store.maxExtra = c.extra
			set, digest := chained(t, store, 3, m, c.change)
			a, dir := assemble(t, set, digest)
			if a != c.want {
				t.Errorf("got %+v, want %+v", a, c.want)
			}
			if got := restored(t, dir, []uint64{1}); !maps.EqualFunc(got, m, maps.Equal) {
				t.Error("the memory is another one")
			}
			if _, err := readMap(filepath.Join(dir, parentName), "pagemap-1.img"); err != nil {
				t.Errorf("the process is in no earlier dump: %v", err)
			}
			// What is on the volume does not matter any more.
			must(t, os.RemoveAll(set.Dir()))
			restored(t, dir, []uint64{1})
			must(t, set.RemoveLocal())
			if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s is still there: %v", dir, err)
			}
		})
	}
}

// The directory that a restore is prepared with is the one that it is made from.
func TestPreparedRestoreKeepsItsDirectory(t *testing.T) {
	set, digest := chained(t, mergingStore(t), 2, memory{1: {}}, steady)
	prepared, err := set.PrepareRestore(container, t.TempDir())
	must(t, err)
	open, err := os.Open(prepared)
	must(t, err)
	defer open.Close()
	if b, err := os.ReadFile(filepath.Join(prepared, descriptorsName)); err != nil || string(b) != `["/dev/null"]` {
		t.Errorf("%s: %q, %v", descriptorsName, b, err)
	}
	_, dir := assemble(t, set, digest)
	if dir != prepared {
		t.Errorf("restored from %s, prepared with %s", dir, prepared)
	}
	// runc has it open by then.
	if names, err := open.Readdirnames(-1); err != nil || !slices.Contains(names, "inventory.img") {
		t.Errorf("what was opened has %q, %v", names, err)
	}
}

// What becomes of the rounds on the volume once they are merged is no matter to a restore,
// and must not be to a pod that stands still meanwhile. It is found when the final dump
// does not become one with them, for then they are what is restored.
func TestRoundsOnTheVolumeOnceTheyAreMerged(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, set *Set, round string){
		"changed": func(t *testing.T, _ *Set, round string) { write(t, round, pagesName(1), []byte("others")) },
		"removed": func(t *testing.T, _ *Set, round string) { must(t, os.RemoveAll(round)) },
		"beside what was published": func(t *testing.T, set *Set, _ string) {
			must(t, os.Mkdir(filepath.Join(set.Dir(), container, RoundName(7)), 0o700))
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, merged := range []bool{true, false} {
				m := memory{1: {}}
				set, digest := chained(t, mergingStore(t), 2, m, steady)
				round, err := set.RoundDir(container, 1)
				must(t, err)
				spoil(t, set, round)
				if merged {
					_, err := set.Verify(context.Background(), digest) // and again, by who could not commit
					must(t, err)
					a, dir := assemble(t, set, digest)
					if got := restored(t, dir, []uint64{1}); a.Whole != 1 || !maps.Equal(got[1], m[1]) {
						t.Errorf("%+v, the memory is %v, not %v", a, got, m)
					}
					continue
				}
				must(t, os.Remove(filepath.Join(set.merges[container].dir, mergedName, pagesName(1))))
				if _, err := set.Verify(context.Background(), digest); err == nil {
					t.Error("it was verified, and is not merged")
				}
			}
		})
	}
}

// Whatever keeps the rounds from being merged, the set can be restored from the volume.
func TestRestoreFromTheVolumeWhenNothingWasMerged(t *testing.T) {
	for name, c := range map[string]struct {
		store  func(t *testing.T) *Store
		change func(memory, int)
		// spoil is done to the target's set once its rounds are read.
		spoil func(t *testing.T, set *Set)
	}{
		"no directory": {store: func(t *testing.T) *Store {
			s, err := Open(t.TempDir(), Options{})
			must(t, err)
			return s
		}},
		"the agent was restarted": {spoil: func(t *testing.T, set *Set) { clear(set.merges) }},
		"the merged memory is gone": {spoil: func(t *testing.T, set *Set) {
			must(t, os.Remove(filepath.Join(set.merges[container].dir, mergedName, pagesName(1))))
		}},
		"no place for the copy": {spoil: func(t *testing.T, set *Set) {
			must(t, os.RemoveAll(set.store.localDir))
			must(t, os.WriteFile(set.store.localDir, nil, 0o600))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			if c.store == nil {
				c.store = mergingStore
			}
			m := memory{1: {}}
			set, digest := chained(t, c.store(t), 2, m, steady)
			if c.spoil != nil {
				c.spoil(t, set)
			}
			// One that was prepared finds what it restores where it was told.
			local := filepath.Join(t.TempDir(), "local")
			must(t, os.Mkdir(local, 0o700))
			open, err := os.Open(local)
			must(t, err)
			defer open.Close()
			write(t, local, descriptorsName, []byte("of before"))
			manifest, err := set.Verify(context.Background(), digest)
			must(t, err)
			if _, err := set.Assembled(container); !errors.Is(err, ErrNotMerged) {
				t.Errorf("assembled: %v", err)
			}
			for range 2 { // by another agent, too
				must(t, set.LayOut(context.Background(), manifest, container, local))
			}
			dir, err := set.RestoreDir(container, local)
			must(t, err)
			if dir != local {
				t.Errorf("restored from %s, not %s", dir, local)
			}
			if got := restored(t, fmt.Sprintf("/proc/self/fd/%d", open.Fd()), []uint64{1}); !maps.Equal(got[1], m[1]) {
				t.Errorf("the memory is %v, not %v", got, m)
			}
			if b, err := os.ReadFile(filepath.Join(local, descriptorsName)); err != nil || string(b) != `["/dev/null"]` {
				t.Errorf("%s: %q, %v", descriptorsName, b, err)
			}
		})
	}
}

// What the target does in the freeze for 256 MiB of which 4 % have changed since the last
// round, at random.
func BenchmarkAssemble(b *testing.B) {
	const pages, fresh = 65536, 2700
	file, err := os.Create(filepath.Join(b.TempDir(), "merged"))
	if err != nil {
		b.Fatal(err)
	}
	defer file.Close()
	base := []pagemap.Entry{{Addr: pageBytes, Pages: pages, Flags: pagemap.Present}}
	r := rand.New(rand.NewPCG(1, 1))
	dirty := make([]bool, pages)
	for range fresh {
		dirty[r.IntN(pages)] = true
	}
	list, n := &pagemap.Map{}, 0
	for i, d := range dirty {
		flags := pagemap.Parent
		if d {
			flags = pagemap.Present
			n++
		}
		if last := len(list.Entries) - 1; last >= 0 && list.Entries[last].Flags == flags {
			list.Entries[last].Pages++
		} else {
			list.Entries = append(list.Entries, pagemap.Entry{Addr: uint64(i+1) * pageBytes, Pages: 1, Flags: flags})
		}
	}
	if _, err := file.Write(make([]byte, pages*pageBytes)); err != nil {
		b.Fatal(err)
	}
	image, err := list.Encode()
	if err != nil {
		b.Fatal(err)
	}
	var plan *pagemap.Plan
	b.Run("plan", func(b *testing.B) {
		for b.Loop() {
			m, err := pagemap.Decode(image)
			if err == nil {
				plan, err = m.On(pagemap.Memory{Base: base, Live: base})
			}
			if err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("pages", func(b *testing.B) {
		in, piece := &intake{}, make([]byte, pieceSize)
		for b.Loop() {
			t := taken{in: in, base: file, moves: plan.Fresh}
			for at := int64(0); at < plan.FreshBytes; at += pieceSize {
				t.piece(piece[:min(pieceSize, plan.FreshBytes-at)], at)
			}
		}
		if in.err() != nil {
			b.Fatal(in.err())
		}
	})
}

func TestRoomIsLeft(t *testing.T) {
	free, total, err := memoryLeft()
	if err != nil || free <= 0 || total < free {
		t.Fatalf("%d of %d bytes, %v", free, total, err)
	}
	for _, dir := range []string{t.TempDir(), "/dev/shm"} {
		s := &Store{localDir: dir}
		if err := s.room(1); err != nil {
			t.Errorf("%s: %v", dir, err)
		}
		if err := s.room(1 << 60); !errors.Is(err, errNoRoom) {
			t.Errorf("%s: %v", dir, err)
		}
	}
	s := &Store{localDir: "/dev/shm"}
	if err := s.room(free - total/10); !errors.Is(err, errNoRoom) {
		t.Errorf("nearly all memory: %v", err)
	}
}

func TestStoppedMergingTakesNoRoom(t *testing.T) {
	store := mergingStore(t)
	set, digest := chained(t, store, 2, memory{1: {}}, steady)
	behind := errors.New("too slow")
	must(t, set.StopMerging(container, behind))
	if _, err := os.Stat(set.merges[container].dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the merged rounds are still there: %v", err)
	}
	_, err := set.Verify(context.Background(), digest)
	must(t, err)
	if _, err := set.Assembled(container); !errors.Is(err, ErrNotMerged) || !errors.Is(err, behind) {
		t.Errorf("assembled: %v", err)
	}
	// What is complete may be read just now.
	set, digest = chained(t, mergingStore(t), 2, memory{1: {}}, steady)
	_, dir := assemble(t, set, digest)
	must(t, set.StopMerging(container, behind))
	if got, err := set.RestoreDir(container, t.TempDir()); err != nil || got != dir {
		t.Errorf("restored from %s, %v", got, err)
	}
	restored(t, dir, []uint64{1})
}
