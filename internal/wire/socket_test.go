// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"godwit.dev/godwit/internal/thread"
)

func TestConversationOverTheSocket(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	l, err := Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for name, want := range map[string]os.FileMode{"": 0o700, SocketName: 0o600} {
		fi, err := os.Stat(filepath.Join(dir, name))
		if err != nil || fi.Mode().Perm() != want {
			t.Errorf("%q: mode %v, %v; want %o", name, fi.Mode(), err, want)
		}
	}
	done := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			done <- err
			return
		}
		defer conn.Close()
		req := &Request{}
		if err := NewReader(conn).Read(req); err != nil {
			done <- err
			return
		}
		done <- Write(conn, &Reply{Version: Version, Verdict: Pass, Message: req.ContainerName})
	}()
	conn, err := Dial(context.Background(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := Write(conn, &Request{Version: Version, ContainerName: "app"}); err != nil {
		t.Fatal(err)
	}
	r, rep := NewReader(conn), &Reply{}
	if err := r.Read(rep); err != nil || rep.Verdict != Pass || rep.Message != "app" {
		t.Errorf("got %+v, %v", rep, err)
	}
	if err := r.Read(rep); err != io.EOF {
		t.Errorf("after the agent hung up: %v", err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestNextAgentTakesTheSocketOver(t *testing.T) {
	dir := t.TempDir()
	old, err := Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	next, err := Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	// The old agent ends later and must not take the new socket with it.
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	conn, err := Dial(context.Background(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	got, err := next.Accept()
	if err != nil {
		t.Fatal(err)
	}
	_ = got.Close()
}

func TestClosedListenerRefuses(t *testing.T) {
	dir := t.TempDir()
	l, err := Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept: %v", err)
	}
	if _, err := Dial(context.Background(), dir); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("Dial: %v", err)
	}
	if _, err := Dial(context.Background(), t.TempDir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Dial without a socket: %v", err)
	}
}

// Another user's process that gets at the socket all the same is hung up on.
func TestOnlyRootIsAccepted(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to act as another user")
	}
	dir, err := os.MkdirTemp("", "wire")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	l, err := Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for p, mode := range map[string]os.FileMode{dir: 0o755, filepath.Join(dir, SocketName): 0o666} {
		if err := os.Chmod(p, mode); err != nil {
			t.Fatal(err)
		}
	}
	accepted := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err == nil {
			_ = conn.Close()
		}
		accepted <- err
	}()
	if err := connectAs(65534, filepath.Join(dir, SocketName)); err != nil {
		t.Fatal(err)
	}
	if err := <-accepted; !errors.Is(err, ErrPeer) {
		t.Errorf("the agent accepted a connection of another user: %v", err)
	}
}

// The wrapper does not believe an agent that is not root's either.
func TestOnlyRootIsAsked(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to act as another user")
	}
	dir, err := os.MkdirTemp("", "wire")
	must(t, err)
	defer os.RemoveAll(dir)
	must(t, os.Chmod(dir, 0o777))
	fd, err := as(65534, func() (int, error) {
		fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
		if err != nil {
			return -1, err
		}
		return fd, errors.Join(syscall.Bind(fd, &syscall.SockaddrUnix{Name: filepath.Join(dir, SocketName)}), syscall.Listen(fd, 1))
	})
	must(t, err)
	defer syscall.Close(fd)
	if conn, err := Dial(context.Background(), dir); !errors.Is(err, ErrPeer) {
		t.Errorf("connected to %v: %v", conn, err)
	}
}

func TestListenClosesTheDirectoryToOthers(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Chmod(dir, 0o777))
	l, err := Listen(dir)
	must(t, err)
	defer l.Close()
	if fi, err := os.Stat(dir); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
}

// connectAs connects as another user and waits for the other side to hang up.
func connectAs(uid int, path string) error {
	_, err := as(uid, func() (int, error) {
		fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
		if err != nil {
			return 0, err
		}
		defer syscall.Close(fd)
		if err := syscall.Connect(fd, &syscall.SockaddrUnix{Name: path}); err != nil {
			return 0, err
		}
		if err := syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &syscall.Timeval{Sec: 10}); err != nil {
			return 0, err
		}
		n, err := syscall.Read(fd, make([]byte, 1))
		if err != nil || n != 0 {
			return 0, fmt.Errorf("not hung up on: read %d, %w", n, err)
		}
		return 0, nil
	})
	return err
}

// as calls fn as another user. On Linux credentials belong to the thread: this
// one is given up afterwards.
func as(uid int, fn func() (int, error)) (n int, err error) {
	err = thread.Do(func() error {
		if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); errno != 0 {
			return errno
		}
		var err error
		n, err = fn()
		return err
	})
	return n, err
}
