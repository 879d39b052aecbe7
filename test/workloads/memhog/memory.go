// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	pageSize  = 4096
	pageWords = pageSize / 8
)

// memory is the part of the process that gets dirty. What a page has to
// contain follows from its number and from how often it was written, so both a
// damaged page and a page that fell back to an older state are found.
type memory struct {
	mu    sync.Mutex
	bytes []byte
	seed  uint64
	// versions counts the writes to each page. It lies on the heap, in other
	// pages than those that it vouches for.
	versions []uint64
	// writes is the sum of versions, kept apart from it.
	writes uint64
}

// report is the outcome of looking at every page.
type report struct {
	Pages uint64 `json:"pages"`
	// Corrupt is the number of pages that do not contain what they have to.
	Corrupt uint64 `json:"corrupt"`
	// FirstCorrupt is the number of the first such page, if there is one.
	FirstCorrupt *uint64 `json:"firstCorrupt,omitempty"`
	// Writes is the number of page writes since the start, the first filling
	// included. WritesSeen is the same, added up from the pages.
	Writes     uint64 `json:"writes"`
	WritesSeen uint64 `json:"writesSeen"`
	// Checksum covers every byte.
	Checksum string `json:"checksum"`
}

func (r report) ok() bool { return r.Corrupt == 0 && r.Writes == r.WritesSeen }

// newMemory maps and fills size bytes, rounded down to whole pages. Without
// hugePages the kernel is told to use small ones: else a single write would
// dirty 2 MiB and no rate could be kept.
func newMemory(size uint64, seed uint64, hugePages bool) (*memory, error) {
	pages := size / pageSize
	if pages == 0 {
		return nil, fmt.Errorf("a size of %d bytes is less than a page", size)
	}
	data, err := unix.Mmap(-1, 0, int(pages*pageSize), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("mapping %d pages: %w", pages, err)
	}
	advice := unix.MADV_NOHUGEPAGE
	if hugePages {
		advice = unix.MADV_HUGEPAGE
	}
	// A kernel without transparent huge pages knows neither advice, and then
	// has the small pages that most want.
	if err := unix.Madvise(data, advice); err != nil && (hugePages || err != unix.EINVAL) {
		return nil, fmt.Errorf("setting the page size: %w", err)
	}
	m := &memory{bytes: data, seed: seed, versions: make([]uint64, pages)}
	for p := range pages {
		m.write(p)
	}
	return m, nil
}

// pages returns the number of pages.
func (m *memory) pages() uint64 { return uint64(len(m.versions)) }

// written returns the number of page writes since the start.
func (m *memory) written() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.writes
}

// write gives each of the pages its next contents.
func (m *memory) write(pages ...uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range pages {
		m.versions[p]++
		m.writes++
		page := m.page(p)
		g := m.generator(p, m.versions[p])
		for i := range pageWords {
			putWord(page[i*8:], g.next())
		}
	}
}

// verify looks at every page. Writers wait until it is done, so that the report
// describes one moment.
func (m *memory) verify() report {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := report{Pages: m.pages(), Writes: m.writes}
	sum := uint64(14695981039346656037)
	for p := range r.Pages {
		r.WritesSeen += m.versions[p]
		page := m.page(p)
		g := m.generator(p, m.versions[p])
		intact := true
		for i := range pageWords {
			w := word(page[i*8:])
			intact = intact && w == g.next()
			sum = (sum ^ w) * 1099511628211
		}
		if intact {
			continue
		}
		r.Corrupt++
		if r.FirstCorrupt == nil {
			r.FirstCorrupt = &p
		}
	}
	r.Checksum = fmt.Sprintf("%016x", sum)
	return r
}

func (m *memory) page(p uint64) []byte { return m.bytes[p*pageSize : (p+1)*pageSize] }

// generator gives the words of a page at a version. Two pages, or two versions
// of one, have nothing in common.
func (m *memory) generator(page, version uint64) *splitMix {
	g := splitMix(m.seed)
	g = splitMix(g.next() + page)
	g = splitMix(g.next() + version)
	return &g
}

// splitMix is Vigna's SplitMix64, a random number generator whose whole state
// is one word.
type splitMix uint64

func (s *splitMix) next() uint64 {
	*s += 0x9e3779b97f4a7c15
	z := uint64(*s)
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}
