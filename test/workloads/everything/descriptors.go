// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// inotify watches a directory and a file.
type inotify struct {
	fd int
	n  int
}

const watched = "/data/watched"

func newInotify() (holder, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(watched+"/deep", 0o755); err != nil {
		return nil, err
	}
	for _, name := range []string{watched + "/beat", watched + "/deep/file"} {
		if err := os.WriteFile(name, nil, 0o644); err != nil {
			return nil, err
		}
	}
	for _, name := range []string{watched, watched + "/deep/file"} {
		if _, err := unix.InotifyAddWatch(fd, name, unix.IN_MODIFY); err != nil {
			return nil, fmt.Errorf("watch %s: %w", name, err)
		}
	}
	return &inotify{fd: fd}, nil
}

func (*inotify) name() string { return "inotify" }

func (i *inotify) step() error {
	i.n++
	for _, name := range []string{watched + "/beat", watched + "/deep/file"} {
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(f, "%d", i.n)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
		// The kernel has queued the event before the write returned.
		var buf [4096]byte
		if n, err := unix.Read(i.fd, buf[:]); err != nil || n < unix.SizeofInotifyEvent {
			return fmt.Errorf("no event for %s: %w", name, err)
		}
	}
	return nil
}

// timers are an interval and a long wait, and an epoll that looks at both.
type timers struct {
	interval, long, epoll int
	began, armed, expired time.Duration
	// stood is the time for which the process stood still, as far as its clock shows it.
	// CRIU dumps and restores what a timer has left, and the clock goes on while it is at
	// it: a timer may be late by that time, and by no more.
	last, stood time.Duration
}

const (
	intervalLength = 20 * time.Millisecond
	longWait       = 15 * time.Second
	// A busy, emulated node runs a process late; what is looked for is a timer that was
	// lost, or that has seen another clock.
	tolerance = 3 * time.Second
	// still is a pause between two steps that is more than being late.
	still = time.Second
)

func newTimers() (holder, error) {
	t := &timers{}
	var err error
	for _, fd := range []*int{&t.interval, &t.long} {
		if *fd, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK); err != nil {
			return nil, err
		}
	}
	if t.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, err
	}
	for _, fd := range []int{t.interval, t.long} {
		if err := unix.EpollCtl(t.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd), Pad: 7}); err != nil {
			return nil, err
		}
	}
	if t.began, err = monotonic(); err != nil {
		return nil, err
	}
	t.last = t.began
	ts := unix.NsecToTimespec(int64(intervalLength))
	if err := unix.TimerfdSettime(t.interval, 0, &unix.ItimerSpec{Interval: ts, Value: ts}, nil); err != nil {
		return nil, err
	}
	return t, t.arm()
}

func (t *timers) arm() (err error) {
	if t.armed, err = monotonic(); err != nil {
		return err
	}
	return unix.TimerfdSettime(t.long, 0, &unix.ItimerSpec{Value: unix.NsecToTimespec(int64(longWait))}, nil)
}

func (*timers) name() string { return "timerfd" }

func (t *timers) step() error {
	var events [4]unix.EpollEvent
	n, err := unix.EpollWait(t.epoll, events[:], 0)
	if err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("epoll: %w", err)
	}
	now, err := monotonic()
	if err != nil {
		return err
	}
	if gap := now - t.last; gap > still {
		t.stood += gap
	}
	t.last = now
	for _, e := range events[:max(n, 0)] {
		if e.Pad != 7 {
			return fmt.Errorf("epoll: the data of descriptor %d is %d", e.Fd, e.Pad)
		}
		var b [8]byte
		if _, err := unix.Read(int(e.Fd), b[:]); err != nil {
			return err
		}
		switch int(e.Fd) {
		case t.interval:
			t.expired += time.Duration(binary.NativeEndian.Uint64(b[:])) * intervalLength
		case t.long:
			if late := now - t.armed - longWait; late < -tolerance || late > tolerance+t.stood {
				return fmt.Errorf("a timer of %s fired %s late, and the process stood still for %s", longWait, late, t.stood)
			}
			if err := t.arm(); err != nil {
				return err
			}
		}
	}
	if off := now - t.began - t.expired; off < -tolerance || off > tolerance+t.stood {
		return fmt.Errorf("expired for %s in %s, of which the process stood still for %s", t.expired, now-t.began, t.stood)
	}
	if late := now - t.armed - longWait; late > tolerance+t.stood {
		return errors.Join(fmt.Errorf("a timer of %s has not fired after %s", longWait, now-t.armed), t.arm())
	}
	return nil
}

// signalfd takes a signal that is blocked.
type signalfd int

const signal = unix.SIGUSR2

func signalSet() *unix.Sigset_t {
	var set unix.Sigset_t
	set.Val[0] = 1 << (signal - 1)
	return &set
}

// blockSignal blocks the signal in this thread, which the caller does not leave.
func blockSignal() error {
	runtime.LockOSThread()
	return unix.PthreadSigmask(unix.SIG_BLOCK, signalSet(), nil)
}

func newSignalfd() (holder, error) {
	fd, err := unix.Signalfd(-1, signalSet(), unix.SFD_CLOEXEC|unix.SFD_NONBLOCK)
	return signalfd(fd), err
}

func (signalfd) name() string { return "signalfd" }

func (s signalfd) step() error {
	if err := unix.Kill(unix.Getpid(), signal); err != nil {
		return err
	}
	var info unix.SignalfdSiginfo
	b := (*[unsafe.Sizeof(info)]byte)(unsafe.Pointer(&info))[:]
	if _, err := unix.Read(int(s), b); err != nil {
		return fmt.Errorf("no signal: %w", err)
	}
	if info.Signo != uint32(signal) || info.Pid != uint32(unix.Getpid()) {
		return fmt.Errorf("signal %d of process %d", info.Signo, info.Pid)
	}
	return nil
}

// eventfd has a value in it between the steps, and an epoll that sees it.
type eventfd struct{ fd, epoll int }

const eventValue = 3

func newEventfd() (holder, error) {
	fd, err := unix.Eventfd(eventValue, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, err
	}
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	return eventfd{fd, epoll}, unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)})
}

func (eventfd) name() string { return "eventfd" }

func (e eventfd) step() error {
	var events [1]unix.EpollEvent
	if n, err := unix.EpollWait(e.epoll, events[:], 0); n != 1 || int(events[0].Fd) != e.fd {
		return fmt.Errorf("epoll sees %d events: %w", n, err)
	}
	var b [8]byte
	if _, err := unix.Read(e.fd, b[:]); err != nil {
		return err
	}
	if v := binary.NativeEndian.Uint64(b[:]); v != eventValue {
		return fmt.Errorf("value %d", v)
	}
	_, err := unix.Write(e.fd, b[:])
	return err
}

// fifo holds a message between the steps.
type fifo struct {
	f *os.File
	n uint64
}

func newFIFO() (holder, error) {
	const name = "/data/fifo"
	if err := unix.Mkfifo(name, 0o600); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	q := &fifo{f: f}
	return q, q.send()
}

func (q *fifo) send() error {
	q.n++
	return binary.Write(q.f, binary.NativeEndian, q.n)
}

func (*fifo) name() string { return "FIFO" }

func (q *fifo) step() error {
	var n uint64
	if err := binary.Read(q.f, binary.NativeEndian, &n); err != nil {
		return err
	}
	if n != q.n {
		return fmt.Errorf("message %d, want %d", n, q.n)
	}
	return q.send()
}

// socketpair holds a message between the steps, too.
type socketpair struct {
	fds [2]int
	n   byte
}

func newSocketpair() (holder, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	s := &socketpair{fds: fds}
	return s, s.send()
}

func (s *socketpair) send() error {
	s.n++
	_, err := unix.Write(s.fds[0], bytes.Repeat([]byte{s.n}, 100))
	return err
}

func (*socketpair) name() string { return "socket pair" }

func (s *socketpair) step() error {
	var b [200]byte
	n, err := unix.Read(s.fds[1], b[:])
	if err != nil {
		return err
	}
	if n != 100 || b[0] != s.n || b[99] != s.n {
		return fmt.Errorf("%d bytes of %d", n, b[0])
	}
	return s.send()
}
