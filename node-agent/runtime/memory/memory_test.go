// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package memory

import (
	"context"
	"errors"
	"os"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/node-agent/runtime"
)

func TestUnion(t *testing.T) {
	for _, c := range []struct {
		spans []span
		want  int64
	}{
		{nil, 0},
		{[]span{{0, 10}}, 10},
		{[]span{{20, 30}, {0, 10}}, 20},
		{[]span{{0, 10}, {5, 15}, {5, 8}}, 15},
		{[]span{{0, 10}, {0, 10}}, 10},
		{[]span{{0, 10}, {10, 20}}, 20},
	} {
		if got := union(c.spans); got != c.want {
			t.Errorf("union(%v) = %d, want %d", c.spans, got, c.want)
		}
	}
}

func TestWanted(t *testing.T) {
	for _, c := range []struct {
		entry   uint64
		private bool
		want    bool
	}{
		{entrySoftDirty | entryPresent, true, true},
		{entrySoftDirty | entrySwapped, true, true},
		{entrySoftDirty, true, false},
		{entryPresent, true, false},
		{entrySoftDirty | entryPresent | entryFile, true, false},
		{entrySoftDirty | entryPresent | entryFile, false, true},
	} {
		if got := wanted(c.entry, entrySoftDirty, c.private); got != c.want {
			t.Errorf("wanted(%#x, private=%t) = %t", c.entry, c.private, got)
		}
	}
}

// pagesIn counts the pages of a mapping of our own by one of the two ways.
func pagesIn(t *testing.T, mem []byte, which Which, plain bool) int64 {
	t.Helper()
	f, err := os.Open("/proc/self/pagemap")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s := newScanner(f, which)
	s.plain = plain
	start := uint64(uintptr(unsafe.Pointer(&mem[0])))
	var n int64
	if err := s.pages(start, start+uint64(len(mem)), true, func(s span) { n += int64(s.end - s.start) }); err != nil {
		t.Fatal(err)
	}
	if s.plain != plain {
		t.Skip("the kernel lacks PAGEMAP_SCAN")
	}
	return n / int64(os.Getpagesize())
}

func mapPages(t *testing.T, n, flags int) []byte {
	t.Helper()
	mem, err := unix.Mmap(-1, 0, n*os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, flags|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Madvise(mem, unix.MADV_NOHUGEPAGE); err != nil {
		t.Log(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(mem) })
	return mem
}

func TestBothWaysSeeTheSamePages(t *testing.T) {
	page := os.Getpagesize()
	mem := mapPages(t, 3000, unix.MAP_PRIVATE)
	for _, p := range []int{0, 1, 2, 7, 1500, 2998, 2999} {
		mem[p*page] = 1
	}
	for _, plain := range []bool{false, true} {
		if n := pagesIn(t, mem, Present, plain); n != 7 {
			t.Errorf("plain=%t: %d pages, want 7", plain, n)
		}
	}
}

func TestDirtyPages(t *testing.T) {
	if err := Tracking(); err != nil {
		if !errors.Is(err, runtime.ErrUnsupported) {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	page := os.Getpagesize()
	mem := mapPages(t, 3000, unix.MAP_PRIVATE)
	for p := range 3000 {
		mem[p*page] = 1
	}
	if err := os.WriteFile("/proc/self/clear_refs", []byte("4"), 0); err != nil {
		t.Fatal(err)
	}
	for p := 0; p < 3000; p += 3 {
		mem[p*page] = 2
	}
	for _, plain := range []bool{false, true} {
		if n := pagesIn(t, mem, Dirty, plain); n != 1000 {
			t.Errorf("plain=%t: %d pages, want 1000", plain, n)
		}
	}
}

func TestSharedMemoryCountsOnce(t *testing.T) {
	before, err := Of(context.Background(), []int{os.Getpid()}, Present)
	if err != nil {
		t.Fatal(err)
	}
	page := os.Getpagesize()
	mem := mapPages(t, 64, unix.MAP_SHARED)
	for p := range 64 {
		mem[p*page] = 1
	}
	// The same process twice is the same memory twice.
	after, err := Of(context.Background(), []int{os.Getpid(), os.Getpid()}, Present)
	if err != nil {
		t.Fatal(err)
	}
	if got := after.Shared - before.Shared; got != int64(64*page) {
		t.Errorf("%d bytes of shared memory, want %d", got, 64*page)
	}
	if after.Private < 2*before.Private {
		t.Errorf("private memory of the process counted twice is %d, once %d", after.Private, before.Private)
	}
}
