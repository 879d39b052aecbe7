// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Package cgroup freezes and kills containers through the files of their
// cgroup v2 directory.
//
// It writes cgroup.freeze and cgroup.kill itself instead of calling `runc pause`
// and `runc kill`: that is all that runc does, runc and CRIU both ask the same
// files for the state of a container (so runc checkpoint, list, resume and exec
// see a container frozen here as paused), and a write takes microseconds where
// starting runc takes tens of milliseconds of downtime. containerd's own task
// pause is avoided on purpose: a containerd that restarts meanwhile would call
// the task's status unexpected.
package cgroup

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/node-agent/runtime/host"
)

// Options configure a Control.
type Options struct {
	// Host is the node.
	Host *host.Host
	// FreezeTimeout bounds Freeze. Default 10 s.
	FreezeTimeout time.Duration
	// KillTimeout bounds the wait for killed tasks to be gone. Default 30 s; a
	// task in an uninterruptible state dies only when it leaves it.
	KillTimeout time.Duration
}

// Control implements runtime.Freezer and the signalling half of runtime.Killer.
type Control struct {
	o Options
}

// New returns a Control.
func New(o Options) *Control {
	if o.FreezeTimeout == 0 {
		o.FreezeTimeout = 10 * time.Second
	}
	if o.KillTimeout == 0 {
		o.KillTimeout = 30 * time.Second
	}
	return &Control{o: o}
}

// ErrUnexpectedPath means that a directory is not a container's cgroup. It is a
// mistake of the caller.
var ErrUnexpectedPath = errors.New("not a cgroup directory of a container")

// open opens a container's cgroup directory. The root of the hierarchy is
// refused: a write there would stop the node.
func (c *Control) open(dir string) (*os.Root, error) {
	clean := filepath.Clean(dir)
	if !strings.HasPrefix(clean, host.CgroupRoot+"/") {
		return nil, fmt.Errorf("%w: %q", ErrUnexpectedPath, dir)
	}
	f, err := c.o.Host.Open(clean, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return os.OpenRoot(host.FDPath(f))
}

// gone says whether an error means that the cgroup has been removed: ENODEV
// comes from a file that was open when its cgroup went.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV)
}

// write writes a control file.
func write(r *os.Root, file, value string) error {
	f, err := r.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// events are the values of a cgroup.events file.
type events struct{ populated, frozen bool }

func parseEvents(b []byte) (events, error) {
	var e events
	seen := 0
	s := bufio.NewScanner(bytes.NewReader(b))
	for s.Scan() {
		key, value, _ := strings.Cut(s.Text(), " ")
		switch key {
		case "populated":
			e.populated = value == "1"
			seen++
		case "frozen":
			e.frozen = value == "1"
			seen++
		}
	}
	if seen != 2 {
		return e, fmt.Errorf("cgroup.events lacks a key: %q", b)
	}
	return e, s.Err()
}

func readEvents(f *os.File) (events, error) {
	b := make([]byte, 256)
	n, err := f.ReadAt(b, 0)
	if n == 0 && err != nil {
		return events{}, err
	}
	return parseEvents(b[:n])
}

// await returns once done says yes of the cgroup's events. The kernel announces
// each change of the file to poll(2), so nothing is asked periodically.
func await(ctx context.Context, r *os.Root, done func(events) bool) error {
	f, err := r.Open("cgroup.events")
	if err != nil {
		return err
	}
	defer f.Close()
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("create an eventfd: %w", err)
	}
	woken := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(woken)
		// An eventfd holds a counter; writing 1 cannot block or fail here.
		_, _ = unix.Write(wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	})
	defer func() {
		if !stop() {
			<-woken // the function must not write to a number given away
		}
		unix.Close(wake)
	}()
	for {
		// Reading arms the notification, so a change after this read wakes poll.
		e, err := readEvents(f)
		if err != nil {
			return err
		}
		if done(e) {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		fds := []unix.PollFd{
			{Fd: int32(f.Fd()), Events: unix.POLLPRI},
			{Fd: int32(wake), Events: unix.POLLIN},
		}
		if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for cgroup.events: %w", err)
		}
	}
}

// Processes lists the process ids in a container's cgroup and the cgroups below
// it, in the node's pid namespace. A cgroup that is gone has none.
func (c *Control) Processes(dir string) ([]int, error) {
	r, err := c.open(dir)
	if gone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return processes(r)
}

func processes(r *os.Root) ([]int, error) {
	var pids []int
	err := fs.WalkDir(r.FS(), ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			if gone(err) {
				return nil
			}
			return err
		}
		if !d.IsDir() {
			return nil
		}
		b, err := r.ReadFile(filepath.Join(p, "cgroup.procs"))
		if err != nil {
			if gone(err) {
				return nil
			}
			return err
		}
		for line := range strings.FieldsSeq(string(b)) {
			pid, err := strconv.Atoi(line)
			if err != nil {
				return fmt.Errorf("cgroup.procs: %w", err)
			}
			pids = append(pids, pid)
		}
		return nil
	})
	return pids, err
}
