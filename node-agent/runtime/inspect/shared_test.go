// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package inspect

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"godwit.dev/godwit/node-agent/runtime"
)

func inodeOf(t *testing.T, fd int) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

func TestUnixSocketsWithTheirOtherEndElsewhere(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	keep(t, listener, err)
	if err := unix.Bind(listener, &unix.SockaddrUnix{Name: "@godwit-test"}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(listener, 1); err != nil {
		t.Fatal(err)
	}
	client, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	keep(t, client, err)
	if err := unix.Connect(client, &unix.SockaddrUnix{Name: "@godwit-test"}); err != nil {
		t.Fatal(err)
	}
	server, _, err := unix.Accept(listener)
	keep(t, server, err)
	keep(t, pair[0], nil)
	keep(t, pair[1], nil)

	all := map[uint64]bool{}
	for _, fd := range []int{pair[0], pair[1], listener, client, server} {
		all[inodeOf(t, fd)] = true
	}
	if got, err := foreignPeers(os.Getpid(), all); err != nil || len(got) != 0 {
		t.Errorf("both ends are here: %v, %v", got, err)
	}
	delete(all, inodeOf(t, client))
	want := []runtime.UnixPeer{{Name: "@godwit-test", InPod: true, Stream: true}}
	if got, err := foreignPeers(os.Getpid(), all); err != nil || !slices.Equal(got, want) {
		t.Errorf("without the client: %v, %v", got, err)
	}
	delete(all, inodeOf(t, server))
	delete(all, inodeOf(t, pair[1]))
	want = []runtime.UnixPeer{{Name: "unnamed", InPod: true, Stream: true}}
	if got, err := foreignPeers(os.Getpid(), all); err != nil || !slices.Equal(got, want) {
		t.Errorf("one end of a pair: %v, %v", got, err)
	}
}

// otherNetwork runs what makes a socket in a network of its own.
func otherNetwork(t *testing.T, open func() (int, error)) int {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: networks")
	}
	goruntime.LockOSThread()
	defer goruntime.UnlockOSThread()
	own, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("not here: %v", err)
	}
	fd, err := open()
	if err := netns.Set(own); err != nil {
		panic(err) // nothing that this thread does later would be right
	}
	return keep(t, fd, err)
}

func unixSocket() (int, error) {
	return unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
}

// The node's end of a connection lies in the pod's network, too, if the pod's end does.
func TestUnixSocketsConnectedToTheNode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "node.sock")
	listener := otherNetwork(t, func() (int, error) {
		fd, err := unixSocket()
		if err == nil {
			err = errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: path}), unix.Listen(fd, 1))
		}
		return fd, err
	})
	client, err := unixSocket()
	keep(t, client, err)
	if err := unix.Connect(client, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	accepted, _, err := unix.Accept(listener)
	keep(t, accepted, err)
	want := []runtime.UnixPeer{{Name: path, Stream: true}}
	if got, err := foreignPeers(os.Getpid(), map[uint64]bool{inodeOf(t, client): true}); err != nil || !slices.Equal(got, want) {
		t.Errorf("found %+v, %v", got, err)
	}
}

// What the node connects to the pod's listener is in no list of the pod's network.
func TestUnixSocketsConnectedByTheNode(t *testing.T) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "pod.sock")})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client := otherNetwork(t, unixSocket)
	if err := unix.Connect(client, &unix.SockaddrUnix{Name: l.Addr().String()}); err != nil {
		t.Fatal(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	want := runtime.UnixPeer{Name: l.Addr().String(), Stream: true}
	if got := look(t).ForeignUnixPeers; !slices.Contains(got, want) {
		t.Errorf("found %+v", got)
	}
}

func TestNamelessObjects(t *testing.T) {
	var p [2]int
	if err := unix.Pipe(p[:]); err != nil {
		t.Fatal(err)
	}
	keep(t, p[0], nil)
	keep(t, p[1], nil)
	fd, err := unix.MemfdCreate("shared", 0)
	keep(t, fd, err)
	if err := unix.Ftruncate(fd, 4096); err != nil {
		t.Fatal(err)
	}
	before := look(t).Nameless
	mapped, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(mapped) }()
	if !slices.Contains(before, fmt.Sprintf("pipe:[%d]", inodeOf(t, p[0]))) {
		t.Errorf("no pipe in %v", before)
	}
	memory := func(all []string) []string {
		return slices.DeleteFunc(slices.Clone(all), func(s string) bool { return !strings.HasPrefix(s, "memory /memfd:shared ") })
	}
	// As a descriptor and as a mapping it is the same.
	if a, b := memory(before), memory(look(t).Nameless); len(a) != 1 || !slices.Equal(a, b) {
		t.Errorf("memory %v, and mapped %v", a, b)
	}
}

func TestSystemVIPC(t *testing.T) {
	key, err := unix.SysvShmGet(unix.IPC_PRIVATE, 4096, unix.IPC_CREAT|0o600)
	if err != nil {
		t.Skipf("not here: %v", err)
	}
	defer func() { _, _ = unix.SysvShmCtl(key, unix.IPC_RMID, nil) }()
	if found, err := sysvObjects(os.Getpid()); err != nil || !found {
		t.Errorf("found %v, %v", found, err)
	}
}
