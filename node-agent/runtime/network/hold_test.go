// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package network

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// sleeper is a process in a network of its own.
func sleeper(t *testing.T) (pid int, ns netns.NsHandle) {
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
	ns, err := netns.GetFromPid(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	return cmd.Process.Pid, ns
}

// machine is a node with two pods, joined by routes or by a bridge.
type machine struct {
	pid            int
	node, pod, far netns.NsHandle
	// podIP of the pod that arrives, farIP of its peer, nodeIP of the node.
	podIP, farIP, nodeIP string
}

func newMachine(t *testing.T, bridged, ip6 bool) *machine {
	t.Helper()
	m := &machine{podIP: "192.0.2.10", farIP: "192.0.2.20", nodeIP: "192.0.2.1"}
	bits, all := "24", "0.0.0.0/0"
	if ip6 {
		m.podIP, m.farIP, m.nodeIP, bits, all = "2001:db8::10", "2001:db8::20", "2001:db8::1", "64", "::/0"
	}
	if !bridged {
		bits = strconv.Itoa(8 * len(netip.MustParseAddr(m.podIP).AsSlice()))
	}
	m.pid, m.node = sleeper(t)
	_, m.pod = sleeper(t)
	_, m.far = sleeper(t)
	in(t, m.node, func() error {
		for _, file := range []string{"/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"} {
			if err := os.WriteFile(file, []byte("1"), 0); err != nil {
				return err
			}
		}
		var errs []error
		if bridged {
			errs = append(errs, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "bridge"}}), give("bridge", m.nodeIP+"/"+bits))
		}
		errs = append(errs, give("lo", ""))
		for name, pod := range map[string]struct {
			ns netns.NsHandle
			ip string
		}{"pod": {m.pod, m.podIP}, "far": {m.far, m.farIP}} {
			errs = append(errs, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: "eth0", PeerNamespace: netlink.NsFd(pod.ns)}))
			if !bridged {
				errs = append(errs, give(name, m.nodeIP+"/"+bits), route(name, pod.ip+"/"+bits, ""))
				continue
			}
			link, err := netlink.LinkByName(name)
			if err == nil {
				var br netlink.Link
				if br, err = netlink.LinkByName("bridge"); err == nil {
					err = netlink.LinkSetMaster(link, br)
				}
			}
			errs = append(errs, err, give(name, ""))
		}
		return errors.Join(errs...)
	})
	for ns, ip := range map[netns.NsHandle]string{m.pod: m.podIP, m.far: m.farIP} {
		in(t, ns, func() error {
			errs := []error{give("lo", ""), give("eth0", ip+"/"+bits)}
			if !bridged {
				errs = append(errs, route("eth0", m.nodeIP+"/"+bits, ""), route("eth0", all, m.nodeIP))
			}
			return errors.Join(errs...)
		})
	}
	return m
}

// give sets an interface up, with an address that is not looked for twice.
func give(name, prefix string) error {
	l, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkSetUp(l)
	}
	if err != nil || prefix == "" {
		return err
	}
	addr, err := netlink.ParseAddr(prefix)
	if err != nil {
		return err
	}
	addr.Flags = unix.IFA_F_NODAD
	return netlink.AddrAdd(l, addr)
}

func route(name, prefix, via string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	dst, err := netlink.ParseIPNet(prefix)
	if err != nil {
		return err
	}
	r := &netlink.Route{LinkIndex: l.Attrs().Index, Dst: dst, Scope: netlink.SCOPE_LINK}
	if via != "" {
		r.Gw, r.Scope = net.ParseIP(via), netlink.SCOPE_UNIVERSE
	}
	return netlink.RouteReplace(r)
}

// dial says what a connection to a port nobody listens on comes to.
func dial(t *testing.T, from netns.NsHandle, to string, limit time.Duration) error {
	t.Helper()
	var got error
	in(t, from, func() error {
		conn, err := net.DialTimeout("tcp", net.JoinHostPort(to, "7000"), limit)
		if err == nil {
			conn.Close()
		}
		got = err
		return nil
	})
	return got
}

// The network of a pod that has no connection yet does not answer its peers with a
// reset while its address is held, wherever they are; and it does afterwards.
func TestAHeldAddressAnswersNobody(t *testing.T) {
	for name, kind := range map[string]struct{ bridged, ip6 bool }{
		"routed":          {false, false},
		"routed, IPv6":    {false, true},
		"on one bridge":   {true, false},
		"on one, of IPv6": {true, true},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t, kind.bridged, kind.ip6)
			h := NewHolder(Options{InitPID: m.pid})
			peers := []struct {
				name     string
				from     netns.NsHandle
				to, ping string
			}{
				{"from another pod", m.far, m.podIP, ""}, {"from the node", m.node, m.podIP, ""},
				{"to another pod", m.pod, m.farIP, ""}, {"to the node", m.pod, m.nodeIP, ""},
			}
			for _, p := range peers {
				if err := dial(t, p.from, p.to, 10*time.Second); !errors.Is(err, unix.ECONNREFUSED) {
					t.Fatalf("%s, before: %v", p.name, err)
				}
			}
			for range 2 {
				if err := h.Hold(t.Context(), "some-uid", []netip.Addr{netip.MustParseAddr(m.podIP)}); err != nil {
					t.Fatal(err)
				}
			}
			for _, p := range peers {
				if err := dial(t, p.from, p.to, 300*time.Millisecond); !isTimeout(err) {
					t.Errorf("%s, held: %v", p.name, err)
				}
			}
			// Nobody else's business.
			if err := dial(t, m.far, m.nodeIP, 10*time.Second); !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("between others: %v", err)
			}
			if held, err := h.Held(t.Context()); err != nil || !slices.Equal(held, []string{"some-uid"}) {
				t.Errorf("held: %v, %v", held, err)
			}
			for range 2 {
				if err := h.Lift(t.Context(), "some-uid"); err != nil {
					t.Fatal(err)
				}
			}
			for _, p := range peers {
				if err := dial(t, p.from, p.to, 10*time.Second); !errors.Is(err, unix.ECONNREFUSED) {
					t.Errorf("%s, afterwards: %v", p.name, err)
				}
			}
			if held, err := h.Held(t.Context()); err != nil || len(held) != 0 {
				t.Errorf("held afterwards: %v, %v", held, err)
			}
		})
	}
}

func isTimeout(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}

// A connection that a process has goes on to wait; one that nobody has accepted is reset,
// and nothing leaves the pod when its process is killed.
func TestOnlyWhatNobodyHasIsReset(t *testing.T) {
	c, own, peer := pod(t)
	i := New(Options{InitPID: os.Getpid()})
	var listener *net.TCPListener
	in(t, own, func() (err error) {
		listener, err = net.ListenTCP("tcp", &net.TCPAddr{Port: 7000})
		return err
	})
	defer listener.Close()
	connect := func() (conn net.Conn) {
		in(t, peer, func() (err error) { conn, err = net.DialTimeout("tcp4", podIP+":7000", 10*time.Second); return err })
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	kept := connect()
	served, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer served.Close()
	waits := connect()
	closed := connect()
	half, err := listener.Accept() // that of waits: the order is theirs
	if err != nil {
		t.Fatal(err)
	}
	defer half.Close()
	if half.RemoteAddr().String() != waits.LocalAddr().String() {
		t.Fatal("accepted out of order")
	}
	// closed is the one that nobody has accepted.
	if err := i.Isolate(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := i.Disown(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	read := func(conn net.Conn, limit time.Duration) error {
		if err := conn.SetReadDeadline(time.Now().Add(limit)); err != nil {
			t.Fatal(err)
		}
		_, err := conn.Read(make([]byte, 1))
		return err
	}
	if err := read(closed, 10*time.Second); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the connection that nobody has accepted: %v", err)
	}
	for name, conn := range map[string]net.Conn{"that was served": kept, "that was accepted": waits} {
		if _, err := conn.Write([]byte("a question")); err != nil {
			t.Error(err)
		}
		if err := read(conn, 300*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the connection %s: %v", name, err)
		}
	}
	// As when the process is killed: with a reset, for it has not read everything, or an end.
	served.Close()
	half.Close()
	listener.Close()
	for name, conn := range map[string]net.Conn{"that was served": kept, "that was accepted": waits} {
		if err := read(conn, 300*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the process is gone, and the connection %s: %v", name, err)
		}
	}
}
