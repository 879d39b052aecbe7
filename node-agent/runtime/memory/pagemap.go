// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package memory

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Categories of pages of the ioctl PAGEMAP_SCAN, see linux/fs.h.
const (
	pageIsFile      = 1 << 2
	pageIsPresent   = 1 << 3
	pageIsSwapped   = 1 << 4
	pageIsPFNZero   = 1 << 5
	pageIsSoftDirty = 1 << 7
)

// Bits of an entry of /proc/PID/pagemap, see the kernel's admin-guide/mm/pagemap.rst.
const (
	entrySoftDirty = 1 << 55
	entryFile      = 1 << 61
	entrySwapped   = 1 << 62
	entryPresent   = 1 << 63
)

// pageRegion is struct page_region.
type pageRegion struct {
	start, end, categories uint64
}

// scanArg is struct pm_scan_arg.
type scanArg struct {
	size, flags                       uint64
	start, end, walkEnd               uint64
	vec, vecLen, maxPages             uint64
	inverted, mask, anyOf, returnMask uint64
}

// pagemapScan is _IOWR('f', 16, struct pm_scan_arg).
const pagemapScan = 3<<30 | uint(unsafe.Sizeof(scanArg{}))<<16 | 'f'<<8 | 16

// scanner finds the dirty pages of a process.
type scanner struct {
	f        *os.File
	pageSize uint64
	regions  []pageRegion
	buf      []byte
	// want is the bit of an entry, category that of a scan, to look for; 0: any page.
	wantEntry, wantCategory uint64
	// plain: the kernel lacks PAGEMAP_SCAN (before 6.7) or its soft-dirty
	// category (before 6.8); read the bits one by one.
	plain bool
}

func newScanner(pagemap *os.File, which Which) *scanner {
	s := &scanner{f: pagemap, pageSize: uint64(os.Getpagesize())}
	if which == Dirty {
		s.wantEntry, s.wantCategory = entrySoftDirty, pageIsSoftDirty
	}
	return s
}

// pages calls found for each run of wanted pages in a mapping. For private
// mappings, pages that still belong to a file are left out: they were never
// written. The zero page holds nothing.
func (s *scanner) pages(start, end uint64, private bool, found func(span)) error {
	if !s.plain {
		err := s.scan(start, end, private, found)
		if !errors.Is(err, unix.ENOTTY) && !errors.Is(err, unix.EINVAL) {
			return err
		}
		s.plain = true
	}
	return s.read(start, end, private, found)
}

// scan lets the kernel look for the pages. An error can only come with the
// first call, before anything was found.
func (s *scanner) scan(start, end uint64, private bool, found func(span)) error {
	if s.regions == nil {
		s.regions = make([]pageRegion, 1024)
	}
	arg := scanArg{
		size:   uint64(unsafe.Sizeof(scanArg{})),
		start:  start,
		end:    end,
		vec:    uint64(uintptr(unsafe.Pointer(&s.regions[0]))),
		vecLen: uint64(len(s.regions)),
		mask:   s.wantCategory | pageIsPFNZero,
		// Inverted: the zero page (and a file's page) must not be set.
		inverted:   pageIsPFNZero,
		anyOf:      pageIsPresent | pageIsSwapped,
		returnMask: pageIsPresent | pageIsSwapped,
	}
	if private {
		arg.mask |= pageIsFile
		arg.inverted |= pageIsFile
	}
	for arg.start < end {
		n, _, errno := unix.Syscall(unix.SYS_IOCTL, s.f.Fd(), uintptr(pagemapScan), uintptr(unsafe.Pointer(&arg)))
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 {
			return fmt.Errorf("scan the page map: %w", errno)
		}
		for _, r := range s.regions[:n] {
			found(span{r.start, r.end})
		}
		if arg.walkEnd <= arg.start {
			return fmt.Errorf("scan the page map: no progress at %#x", arg.start)
		}
		arg.start = arg.walkEnd
	}
	return nil
}

// read looks at the entries of the pages itself.
func (s *scanner) read(start, end uint64, private bool, found func(span)) error {
	if s.buf == nil {
		s.buf = make([]byte, 8*8192)
	}
	run := span{}
	for at := start; at < end; {
		want := min((end-at)/s.pageSize*8, uint64(len(s.buf)))
		n, err := s.f.ReadAt(s.buf[:want], int64(at/s.pageSize*8))
		if n < 8 {
			// Addresses beyond the task's size have no entries.
			if err == nil || errors.Is(err, io.EOF) {
				break
			}
			return fmt.Errorf("read the page map: %w", err)
		}
		for i := 0; i+8 <= n; i += 8 {
			if wanted(binary.NativeEndian.Uint64(s.buf[i:]), s.wantEntry, private) {
				if run.end != at {
					if run.end > run.start {
						found(run)
					}
					run.start = at
				}
				run.end = at + s.pageSize
			}
			at += s.pageSize
		}
	}
	if run.end > run.start {
		found(run)
	}
	return nil
}

// wanted judges an entry. The zero page cannot be told from others by these
// bits; it is never dirty by a write, only counted right after mapping.
func wanted(entry, bits uint64, private bool) bool {
	return entry&bits == bits && entry&(entryPresent|entrySwapped) != 0 && (!private || entry&entryFile == 0)
}
