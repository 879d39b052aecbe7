// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package network

import (
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"godwit.dev/godwit/internal/thread"
	"godwit.dev/godwit/node-agent/runtime"
)

const (
	podIP  = "192.0.2.2"
	peerIP = "192.0.2.1"
)

// in runs fn on a thread in a network namespace.
func in(t *testing.T, ns netns.NsHandle, fn func() error) {
	t.Helper()
	if err := thread.Do(func() error {
		if err := netns.Set(ns); err != nil {
			return err
		}
		return fn()
	}); err != nil {
		t.Fatal(err)
	}
}

// pod makes two namespaces with a wire between them, one of them a pod's: it has
// a process.
func pod(t *testing.T) (c runtime.Container, own, peer netns.NsHandle) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: network namespaces")
	}
	cmd := exec.Command("sleep", "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	own, err := netns.GetFromPid(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { own.Close() })
	if err := thread.Do(func() (err error) {
		peer, err = netns.New()
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { peer.Close() })
	in(t, peer, func() error {
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "wire"}, PeerName: "eth0", PeerNamespace: netlink.NsFd(own)}); err != nil {
			return err
		}
		return up("wire", peerIP)
	})
	in(t, own, func() error { return errors.Join(up("eth0", podIP), up("lo", "")) })
	return runtime.Container{ID: "test", PID: cmd.Process.Pid}, own, peer
}

func up(name, ip string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	if ip != "" {
		addr, err := netlink.ParseAddr(ip + "/24")
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(l, addr); err != nil {
			return err
		}
	}
	return netlink.LinkSetUp(l)
}

// TestNothingIsAcknowledged: what a peer sends to an isolated pod stays in the
// peer's hands, and arrives after the isolation.
func TestNothingIsAcknowledged(t *testing.T) {
	c, own, peer := pod(t)
	i := New(Options{InitPID: os.Getpid()})
	var listener net.Listener
	in(t, own, func() (err error) { listener, err = net.Listen("tcp4", podIP+":7000"); return err })
	defer listener.Close()
	var conn net.Conn
	in(t, peer, func() (err error) { conn, err = net.Dial("tcp4", podIP+":7000"); return err })
	defer conn.Close()
	served, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer served.Close()
	exchange(t, conn, served)

	for range 2 {
		if err := i.Isolate(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := conn.Write([]byte("lost?")); err != nil {
		t.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond) // nothing tells that no acknowledgement comes: well beyond a round trip
	if n := unacknowledged(t, conn); n == 0 {
		t.Error("the pod acknowledged data while it was isolated")
	}
	in(t, own, func() error { return loopbackWorks() })

	for range 2 {
		if err := i.Connect(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	got := make([]byte, 5)
	if err := served.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(served, got); err != nil || string(got) != "lost?" {
		t.Errorf("after the isolation: %q, %v", got, err)
	}
}

// exchange sends a byte there and back.
func exchange(t *testing.T, a, b net.Conn) {
	t.Helper()
	one := []byte{1}
	for _, dir := range [][2]net.Conn{{a, b}, {b, a}} {
		if _, err := dir[0].Write(one); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(dir[1], one); err != nil {
			t.Fatal(err)
		}
	}
}

// unacknowledged is the number of segments in flight.
func unacknowledged(t *testing.T, c net.Conn) uint32 {
	t.Helper()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var info *unix.TCPInfo
	var ierr error
	if err := raw.Control(func(fd uintptr) { info, ierr = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) }); err != nil || ierr != nil {
		t.Fatal(err, ierr)
	}
	return info.Unacked
}

// loopbackWorks connects over the loopback interface and to the pod's own
// address, which goes the same way.
func loopbackWorks() error {
	for _, ip := range []string{"127.0.0.1", podIP} {
		l, err := net.Listen("tcp4", ip+":0")
		if err != nil {
			return err
		}
		defer l.Close()
		d := net.Dialer{Timeout: 10 * time.Second}
		c, err := d.Dial("tcp4", l.Addr().String())
		if err != nil {
			return err
		}
		c.Close()
	}
	return nil
}

func TestOnlyPodsAreIsolated(t *testing.T) {
	i := New(Options{InitPID: os.Getpid()})
	for _, pid := range []int{0, 1, -1} {
		if err := i.Isolate(t.Context(), runtime.Container{ID: "x", PID: pid}); !errors.Is(err, runtime.ErrNotFound) {
			t.Errorf("process %d: %v", pid, err)
		}
	}
	// A container of a pod with hostNetwork.
	if err := i.Isolate(t.Context(), runtime.Container{ID: "x", PID: os.Getpid()}); !errors.Is(err, errHostNetwork) {
		t.Errorf("got %v", err)
	}
}

// A peer that waits for an answer learns at once that there will be none; so does who
// connects, and who sends on a connection that nobody knows.
func TestPeersAreTold(t *testing.T) {
	c, own, peer := pod(t)
	i := New(Options{InitPID: os.Getpid()})
	// A dual-stack listener, as most servers have.
	var listener net.Listener
	in(t, own, func() (err error) { listener, err = net.Listen("tcp", ":7000"); return err })
	defer listener.Close()
	dial := func() (conn net.Conn, err error) {
		in(t, peer, func() error { conn, err = net.DialTimeout("tcp4", podIP+":7000", 10*time.Second); return nil })
		return conn, err
	}
	conn, err := dial()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	served, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer served.Close()
	exchange(t, conn, served)
	if err := i.Isolate(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("a question")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := i.Reject(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the peer got %v, not a reset", err)
	}
	if other, err := dial(); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("a new connection got %v", err)
		if other != nil {
			other.Close()
		}
	}
	in(t, own, func() error { return loopbackWorks() })
}
