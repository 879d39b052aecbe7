// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// port of a listener that the kernel has chosen.
func portOf(t *testing.T, fd int) int {
	t.Helper()
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return sa.(*unix.SockaddrInet4).Port
}

func start(t *testing.T, shm, incarnation string) (*voice, int) {
	t.Helper()
	shared, err := openShared(shm)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := listen(loopback(0))
	if err != nil {
		t.Fatal(err)
	}
	v := &voice{port: portOf(t, fd), shared: shared}
	v.notes.Incarnation = incarnation
	go v.serve(fd)
	return v, fd
}

func (v *voice) now() Notes {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.notes
}

// eventually asks again and again: a voice only notes, and calls nobody.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

func TestVoicesHearEachOther(t *testing.T) {
	shm := filepath.Join(t.TempDir(), "shm")
	a, _ := start(t, shm, "a")
	b, _ := start(t, shm, "b")
	go a.sing()
	go b.sing()
	go a.listenTo(b.port, loopback(b.port))
	eventually(t, "a hears b", func() bool { return a.now().Heard > 20 })
	if n := a.now(); n.Refused+n.Lost+n.Silent+n.SetBack+n.Torn != 0 {
		t.Errorf("noted %+v", n)
	}

	// b is set back, and then another.
	b.note(func(n *Notes) { n.Count = 0 })
	eventually(t, "a notes it", func() bool { return a.now().SetBack == 1 })
	b.note(func(n *Notes) { n.Incarnation = "c" })
	eventually(t, "a notes that, too", func() bool { return a.now().SetBack == 2 })
}

func TestAbsenceIsNoted(t *testing.T) {
	shm := filepath.Join(t.TempDir(), "shm")
	a, _ := start(t, shm, "a")
	b, fd := start(t, filepath.Join(t.TempDir(), "other"), "b")
	port := b.port
	go b.sing()
	go a.listenTo(port, loopback(port))
	// The memory is not shared.
	eventually(t, "a misses what b has written", func() bool { return a.now().Torn > 0 })
	// What was accepted goes on; nobody accepts any more.
	if err := unix.Shutdown(fd, unix.SHUT_RDWR); err != nil {
		t.Fatal(err)
	}
	c := &voice{port: 1, shared: a.shared}
	go c.listenTo(port, loopback(port))
	eventually(t, "c finds nobody", func() bool { return c.now().Refused > 0 })
}

func TestVoicesOverUnixSockets(t *testing.T) {
	dir := t.TempDir()
	a, _ := start(t, filepath.Join(dir, "shm"), "a")
	b, _ := start(t, filepath.Join(dir, "shm"), "b")
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	b.log = log
	fd, err := listen(named(dir, b.port))
	if err != nil {
		t.Fatal(err)
	}
	go b.serve(fd)
	go b.sing()
	go a.listenTo(b.port, named(dir, b.port))
	eventually(t, "a hears b", func() bool { return a.now().Heard > 20 })
	if n := a.now(); n.Refused+n.Lost+n.Silent+n.SetBack+n.Torn != 0 {
		t.Errorf("noted %+v", n)
	}
	eventually(t, "b logs", func() bool {
		text, err := os.ReadFile(log.Name())
		return err == nil && strings.HasPrefix(string(text), "1\n2\n3\n")
	})
}
