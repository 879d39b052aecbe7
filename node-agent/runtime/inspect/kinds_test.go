// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package inspect

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestKindsOfDescriptors(t *testing.T) {
	for _, kind := range dumpable {
		if kind == "[fanotify]" {
			continue // not for everybody
		}
		var fd int
		var err error
		switch kind {
		case "[eventfd]":
			fd, err = unix.Eventfd(0, unix.EFD_CLOEXEC)
		case "[eventpoll]":
			fd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC)
		case "inotify":
			fd, err = unix.InotifyInit1(unix.IN_CLOEXEC)
		case "[signalfd]":
			fd, err = unix.Signalfd(-1, &unix.Sigset_t{}, unix.SFD_CLOEXEC)
		case "[timerfd]":
			fd, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC)
		case "[pidfd]":
			fd, err = unix.PidfdOpen(os.Getpid(), 0)
		}
		keep(t, fd, err)
	}
	memfd, err := unix.MemfdCreate("x", unix.MFD_CLOEXEC)
	keep(t, memfd, err)
	own, err := os.Open("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	if in := look(t); len(in.Descriptors) != 0 || len(in.ForeignFiles) != 0 || len(in.DeletedFiles) != 0 {
		t.Errorf("found %+v", in)
	}
}

func TestDescriptorsThatCannotBeDumped(t *testing.T) {
	fd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|1, 0, 0)
	if errno != 0 {
		t.Skipf("not on this kernel: %v", errno)
	}
	defer unix.Close(int(fd))
	if in := look(t); !slices.Equal(in.Descriptors, []string{"[userfaultfd]"}) {
		t.Errorf("found %q", in.Descriptors)
	}
}

func TestNamespacesOfOthers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: namespaces")
	}
	cmd := exec.Command("sleep", "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUTS | unix.CLONE_NEWNET | unix.CLONE_NEWNS}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	// Networks and mounts may be others.
	got, err := nested(os.Getpid(), []int{os.Getpid(), cmd.Process.Pid})
	if err != nil || !slices.Equal(got, []string{"uts"}) {
		t.Errorf("found %q, %v", got, err)
	}
	f, err := os.Open("/proc/" + strconv.Itoa(cmd.Process.Pid) + "/ns/uts")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if in := look(t); len(in.Descriptors) != 1 {
		t.Errorf("found %q", in.Descriptors)
	}
}

func TestDeletedFiles(t *testing.T) {
	dir := t.TempDir()
	open := func(name string) *os.File {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		return f
	}
	remove := func(f *os.File) {
		if err := os.Remove(f.Name()); err != nil {
			t.Fatal(err)
		}
	}
	small := open("small")
	remove(small)
	// A hole takes no room.
	sparse := open("sparse")
	if err := sparse.Truncate(2 * ghostLimit); err != nil {
		t.Fatal(err)
	}
	remove(sparse)
	if in := look(t); len(in.DeletedFiles) != 0 {
		t.Errorf("found %q", in.DeletedFiles)
	}

	linked := open("linked")
	if err := os.Link(linked.Name(), filepath.Join(dir, "other")); err != nil {
		t.Fatal(err)
	}
	remove(linked)
	open(".nfs00000000000012ab00000001")
	want := []string{
		dir + "/.nfs00000000000012ab00000001 (removed on NFS)",
		dir + "/linked (it has another name elsewhere)",
	}
	big := open("big")
	if err := unix.Fallocate(int(big.Fd()), 0, 0, ghostLimit+4096); err == nil {
		remove(big)
		want = append([]string{dir + "/big (64 MiB, more than 64)"}, want...)
	}
	in := look(t)
	slices.Sort(in.DeletedFiles)
	slices.Sort(want)
	if !slices.Equal(in.DeletedFiles, want) {
		t.Errorf("found %q, want %q", in.DeletedFiles, want)
	}
}

// A file of a file system that the process does not have mounted.
func TestForeignFiles(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		t.Skip(err)
	}
	f, err := os.Create(dir + "/file")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if in := look(t); len(in.ForeignFiles) != 0 {
		t.Errorf("found %q", in.ForeignFiles)
	}
	if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	if in := look(t); len(in.ForeignFiles) != 1 {
		t.Errorf("found %q", in.ForeignFiles)
	}
}
