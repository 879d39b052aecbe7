// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// deleted is an open file without a name, which grows.
type deleted struct {
	f *os.File
	n int
}

const (
	deletedBlock = 4096
	deletedMost  = 512
)

func newDeleted() (holder, error) {
	f, err := os.CreateTemp("/data", "deleted")
	if err != nil {
		return nil, err
	}
	return &deleted{f: f}, os.Remove(f.Name())
}

func (*deleted) name() string { return "deleted file" }

func (d *deleted) block(n int) []byte { return bytes.Repeat([]byte{byte(n%251) + 1}, deletedBlock) }

func (d *deleted) step() error {
	var st unix.Stat_t
	if err := unix.Fstat(int(d.f.Fd()), &st); err != nil {
		return err
	}
	if st.Nlink != 0 || st.Size != int64(min(d.n, deletedMost))*deletedBlock {
		return fmt.Errorf("%d bytes, %d links", st.Size, st.Nlink)
	}
	if d.n > 0 {
		b := make([]byte, deletedBlock)
		if _, err := d.f.ReadAt(b, int64((d.n-1)%deletedMost)*deletedBlock); err != nil {
			return err
		}
		if !bytes.Equal(b, d.block(d.n-1)) {
			return fmt.Errorf("block %d was changed", d.n-1)
		}
	}
	_, err := d.f.WriteAt(d.block(d.n), int64(d.n%deletedMost)*deletedBlock)
	d.n++
	return err
}

// appended is a log that only grows.
type appended struct {
	f    *os.File
	size int64
}

func newLog() (holder, error) {
	f, err := os.OpenFile("/data/log", os.O_WRONLY|os.O_APPEND|os.O_CREATE|os.O_EXCL, 0o644)
	return &appended{f: f}, err
}

func (*appended) name() string { return "log" }

func (a *appended) step() error {
	info, err := os.Stat("/data/log")
	if err != nil {
		return err
	}
	if info.Size() != a.size {
		return fmt.Errorf("%d bytes, want %d", info.Size(), a.size)
	}
	n, err := fmt.Fprintln(a.f, "line at", a.size)
	a.size += int64(n)
	return err
}

// attributes of the process that a restore has to bring back.
type attributes struct{ was string }

func newAttributes() (holder, error) {
	if err := os.Chdir(watched); err != nil {
		return nil, err
	}
	unix.Umask(0o027)
	if err := unix.Setpriority(unix.PRIO_PROCESS, 0, 3); err != nil {
		return nil, err
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 777, Max: 1000}); err != nil {
		return nil, err
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, err
	}
	a := &attributes{}
	var err error
	a.was, err = a.now()
	return a, err
}

func (*attributes) name() string { return "attributes" }

func (*attributes) now() (string, error) {
	cwd, err := os.Getwd()
	if err != nil {
		return "", err
	}
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return "", err
	}
	mask := unix.Umask(0o027)
	sid, err := unix.Getsid(0)
	if err != nil {
		return "", err
	}
	host, err := os.Hostname()
	return fmt.Sprintf("directory %s, umask %o, limit %v, pid %d, parent %d, session %d, group %d, user %d:%d, host %s",
		cwd, mask, files, unix.Getpid(), unix.Getppid(), sid, unix.Getpgrp(), unix.Getuid(), unix.Getgid(), host), err
}

func (a *attributes) step() error {
	is, err := a.now()
	if err == nil && is != a.was {
		err = fmt.Errorf("%s; was %s", is, a.was)
	}
	return err
}
