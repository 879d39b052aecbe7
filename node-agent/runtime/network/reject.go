// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package network

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"godwit.dev/godwit/node-agent/runtime"
	"godwit.dev/godwit/node-agent/runtime/netspace"
)

// Reject resets the pod's connections, and whatever peers send from then on, so that
// they connect anew at once. Only resets leave the pod; its processes get nothing any
// more.
func (i Isolator) Reject(_ context.Context, c runtime.Container) error {
	return i.inNamespace(c, func(conn *nftables.Conn, ns *os.File) error {
		rejectTable(conn, true)
		if err := conn.Flush(); err != nil {
			return err
		}
		return netspace.Do(int(ns.Fd()), func() error { return resetConnections(func(*netlink.Socket) bool { return true }) })
	})
}

// Disown resets the connections that no process has. While that is done resets leave
// the pod, of which a frozen process sends none; afterwards it is cut off as before, so
// that its processes, when they are killed, tell no peer.
func (i Isolator) Disown(_ context.Context, c runtime.Container) error {
	return i.inNamespace(c, func(conn *nftables.Conn, ns *os.File) error {
		rejectTable(conn, false)
		if err := conn.Flush(); err != nil {
			return err
		}
		err := netspace.Do(int(ns.Fd()), func() error { return resetConnections(unowned) })
		replaceTable(conn)
		return errors.Join(err, conn.Flush())
	})
}

// unowned: what has no file has no inode. Nobody has accepted it yet, or it was closed and
// has not ended.
func unowned(s *netlink.Socket) bool { return s.INode == 0 }

// rejectTable queues the rules that take the place of those that drop everything. A
// packet of UDP is dropped as before: nobody is there who could answer. Resets leave;
// TCP that arrives is answered with one, or dropped as well.
func rejectTable(conn *nftables.Conn, answer bool) {
	conn.DelTable(conn.AddTable(table()))
	t := conn.AddTable(table())
	accept := nftables.ChainPolicyAccept
	prio := priority
	chain := func(name string, hook *nftables.ChainHook) *nftables.Chain {
		return conn.AddChain(&nftables.Chain{
			Name: name, Table: t, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: &prio, Policy: &accept,
		})
	}
	in := chain("input", nftables.ChainHookInput)
	if answer {
		conn.AddRule(&nftables.Rule{Table: t, Chain: in, Exprs: rejectTCP()})
	}
	conn.AddRule(&nftables.Rule{Table: t, Chain: in, Exprs: dropUnlessLoopback(expr.MetaKeyIIFNAME)})
	out := chain("output", nftables.ChainHookOutput)
	conn.AddRule(&nftables.Rule{Table: t, Chain: out, Exprs: acceptResets()})
	conn.AddRule(&nftables.Rule{Table: t, Chain: out, Exprs: dropUnlessLoopback(expr.MetaKeyOIFNAME)})
}

// rejectTCP is `iifname != "lo" meta l4proto tcp reject with tcp reset`.
func rejectTCP() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: interfaceName("lo")},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Reject{Type: unix.NFT_REJECT_TCP_RST},
	}
}

// acceptResets is `meta l4proto tcp tcp flags rst accept`.
func acceptResets() []expr.Any {
	const flagsOffset, rst = 13, 0x04
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: flagsOffset, Len: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{rst}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{0}},
		&expr.Verdict{Kind: expr.VerdictAccept},
	}
}

// resetConnections ends those TCP connections of this thread's network that it is asked
// to, but none over loopback. A peer that waits for an answer learns of it at once: the kernel resets a
// connection that it is told to destroy.
func resetConnections(which func(*netlink.Socket) bool) error {
	var errs []error
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		sockets, err := netlink.SocketDiagTCP(family)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return fmt.Errorf("list connections: %w", err)
		}
		for _, s := range sockets {
			if s.ID.DestinationPort == 0 || s.ID.Destination.IsLoopback() || !which(s) {
				continue
			}
			// One that has ended by itself is no error.
			if err := destroy(s); err != nil && !errors.Is(err, unix.ENOENT) {
				errs = append(errs, fmt.Errorf("reset the connection with %s: %w", s.ID.Destination, err))
			}
		}
	}
	return errors.Join(errs...)
}

func destroy(s *netlink.Socket) error {
	req := nl.NewNetlinkRequest(nl.SOCK_DESTROY, unix.NLM_F_ACK)
	req.AddData(destroyRequest{s})
	_, err := req.Execute(unix.NETLINK_INET_DIAG, 0)
	return err
}

// destroyRequest is struct inet_diag_req_v2 (linux/inet_diag.h).
type destroyRequest struct{ s *netlink.Socket }

const destroyRequestSize = 56

// Len implements nl.NetlinkRequestData.
func (destroyRequest) Len() int { return destroyRequestSize }

// Serialize implements nl.NetlinkRequestData.
func (r destroyRequest) Serialize() []byte {
	id := r.s.ID
	b := make([]byte, 0, destroyRequestSize)
	b = append(b, r.s.Family, unix.IPPROTO_TCP, 0, 0)
	b = binary.NativeEndian.AppendUint32(b, 1<<r.s.State)
	b = binary.BigEndian.AppendUint16(b, id.SourcePort)
	b = binary.BigEndian.AppendUint16(b, id.DestinationPort)
	for _, ip := range []net.IP{id.Source, id.Destination} {
		var a [net.IPv6len]byte
		if r.s.Family == unix.AF_INET {
			copy(a[:], ip.To4())
		} else {
			copy(a[:], ip.To16())
		}
		b = append(b, a[:]...)
	}
	b = binary.NativeEndian.AppendUint32(b, id.Interface)
	for _, c := range id.Cookie {
		b = binary.NativeEndian.AppendUint32(b, c)
	}
	return b
}
