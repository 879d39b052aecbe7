// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package memory

import (
	"encoding/binary"
	"fmt"
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/node-agent/runtime"
)

// Tracking says whether the kernel tracks dirty pages: nil or an error that
// wraps runtime.ErrUnsupported. The kernel does not change while we run, so it
// is tried once.
var Tracking = sync.OnceValue(TestTracking)

// TestTracking makes a whole round with a page of our own: written, seen
// dirty; cleared, seen clean; written, seen dirty again. A kernel built without
// CONFIG_MEM_SOFT_DIRTY accepts the clearing and does nothing, so only trying
// tells. Clearing concerns all of this process's memory, which nobody tracks.
func TestTracking() error {
	if err := roundTrip(); err != nil {
		return fmt.Errorf("%w: %w", runtime.ErrUnsupported, err)
	}
	return nil
}

func roundTrip() error {
	size := os.Getpagesize()
	page, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return fmt.Errorf("map a page: %w", err)
	}
	defer func() { _ = unix.Munmap(page) }()
	pagemap, err := os.Open("/proc/self/pagemap")
	if err != nil {
		return err
	}
	defer pagemap.Close()
	addr := uint64(uintptr(unsafe.Pointer(&page[0])))
	dirty := func() (bool, error) {
		var b [8]byte
		if _, err := pagemap.ReadAt(b[:], int64(addr/uint64(size)*8)); err != nil {
			return false, fmt.Errorf("read the page map: %w", err)
		}
		return wanted(binary.NativeEndian.Uint64(b[:]), entrySoftDirty, true), nil
	}
	page[0] = 1
	if ok, err := dirty(); err != nil || !ok {
		return roundFailed("a written page is not dirty", err)
	}
	if err := os.WriteFile("/proc/self/clear_refs", []byte("4"), 0); err != nil {
		return fmt.Errorf("clear the soft-dirty bits: %w", err)
	}
	if ok, err := dirty(); err != nil || ok {
		return roundFailed("clearing leaves a page dirty", err)
	}
	page[0] = 2
	if ok, err := dirty(); err != nil || !ok {
		return roundFailed("a page written after clearing is not dirty", err)
	}
	return nil
}

func roundFailed(what string, err error) error {
	if err != nil {
		return err
	}
	return fmt.Errorf("the kernel does not track dirty pages: %s", what)
}
