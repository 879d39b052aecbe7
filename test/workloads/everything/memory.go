// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// shared is memory that others could map too. Each step changes one page of it.
type shared struct {
	kind string
	b    []byte
	fd   int // -1 without
	n    byte
}

const sharedSize = 1 << 20

func mapped(kind string, fd int) (holder, error) {
	if err := unix.Ftruncate(fd, sharedSize); err != nil {
		return nil, err
	}
	b, err := unix.Mmap(fd, 0, sharedSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	return &shared{kind: kind, b: b, fd: fd}, err
}

func newMemfd() (holder, error) {
	fd, err := unix.MemfdCreate("everything", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	return mapped("memfd", fd)
}

func newSharedFile() (holder, error) {
	fd, err := unix.Open("/dev/shm/everything", unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	return mapped("POSIX shared memory", fd)
}

func newSysV() (holder, error) {
	id, err := unix.SysvShmGet(unix.IPC_PRIVATE, sharedSize, unix.IPC_CREAT|0o600)
	if err != nil {
		return nil, err
	}
	b, err := unix.SysvShmAttach(id, 0, 0)
	return &shared{kind: "System V shared memory", b: b, fd: -1}, err
}

func (s *shared) name() string { return s.kind }

func (s *shared) step() error {
	page := os.Getpagesize()
	at := int(s.n) * page % len(s.b)
	if want := s.n - 1; s.n > 0 && s.b[(int(want)*page)%len(s.b)] != want+1 {
		return fmt.Errorf("page %d was changed", want)
	}
	s.n++
	for i := range page {
		s.b[at+i] = s.n
	}
	if s.fd < 0 {
		return nil
	}
	b := make([]byte, page)
	if _, err := unix.Pread(s.fd, b, int64(at)); err != nil {
		return err
	}
	if !bytes.Equal(b, s.b[at:at+page]) {
		return fmt.Errorf("page %d of the file is not what is mapped", at/page)
	}
	return nil
}
