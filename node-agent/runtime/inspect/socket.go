// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package inspect

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// socket looks at a socket of a process through a descriptor of our own for it.
// That tells everything in one place, MPTCP included (whose listeners the
// tables of /proc show as plain TCP with another inode), and needs none of the
// kernel's diagnosis modules. The copy lives for microseconds; a socket that the
// process closes just then closes with it.
func (g *gatherer) socket(pid, pidfd, fd int) error {
	own, err := unix.PidfdGetfd(pidfd, fd, 0)
	if err != nil {
		return fmt.Errorf("look at a socket: %w", err)
	}
	defer unix.Close(own)
	family, err := unix.GetsockoptInt(own, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if errors.Is(err, unix.ENOTSOCK) {
		return nil // the number was given to another file meanwhile
	}
	if err != nil {
		return fmt.Errorf("SO_DOMAIN: %w", err)
	}
	switch family {
	case unix.AF_UNIX:
		return g.unixSocket(pid, own)
	case unix.AF_NETLINK, unix.AF_PACKET:
		return nil
	case unix.AF_INET, unix.AF_INET6:
		return g.inet(own)
	}
	g.in.UnsupportedSockets = append(g.in.UnsupportedSockets, familyName(family))
	return nil
}

func (g *gatherer) inet(fd int) error {
	proto, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	if err != nil {
		return fmt.Errorf("SO_PROTOCOL: %w", err)
	}
	local, err := address(unix.Getsockname(fd))
	if err != nil {
		return fmt.Errorf("getsockname: %w", err)
	}
	switch proto {
	case unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_UDPLITE:
	case unix.IPPROTO_MPTCP:
		g.in.MultipathTCP = append(g.in.MultipathTCP, local.String())
		return nil
	default:
		if typ, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE); err == nil && typ == unix.SOCK_RAW {
			break
		}
		g.in.UnsupportedSockets = append(g.in.UnsupportedSockets, protocolName(proto))
		return nil
	}
	peer, err := address(unix.Getpeername(fd))
	switch {
	case errors.Is(err, unix.ENOTCONN) && proto == unix.IPPROTO_TCP:
		info, err := unix.GetsockoptTCPInfo(fd, unix.SOL_TCP, unix.TCP_INFO)
		if err != nil {
			return fmt.Errorf("TCP_INFO: %w", err)
		}
		g.unconnectedTCP(int(info.State), local)
	case errors.Is(err, unix.ENOTCONN):
		if bound(local) {
			g.in.BoundAddresses = append(g.in.BoundAddresses, local.String())
		}
	case err != nil:
		return fmt.Errorf("getpeername: %w", err)
	case proto == unix.IPPROTO_TCP && !peer.Addr().Unmap().IsLoopback():
		g.in.EstablishedTCP++
	}
	return nil
}

// States of a TCP socket, as the kernel numbers them (net/tcp_states.h).
const (
	tcpSynSent = 2
	tcpListen  = 10
)

// unconnectedTCP looks at a TCP socket without a peer. One that is connecting loses
// its connection in the dump like those that are connected. One whose connection has
// ended, and that the process has yet to close, still has the pod's address, and is
// restored with it: the wrapper has the target's network allow that.
func (g *gatherer) unconnectedTCP(state int, local netip.AddrPort) {
	switch {
	case state == tcpSynSent && !local.Addr().Unmap().IsLoopback():
		g.in.EstablishedTCP++
	case state == tcpListen && bound(local):
		g.in.BoundAddresses = append(g.in.BoundAddresses, local.String())
	}
}

// bound says whether an address ties a socket to the pod's own address, which
// the target may not have.
func bound(a netip.AddrPort) bool {
	ip := a.Addr().Unmap()
	return ip.IsValid() && !ip.IsUnspecified() && !ip.IsLoopback() && !ip.IsMulticast()
}

func address(sa unix.Sockaddr, err error) (netip.AddrPort, error) {
	if err != nil {
		return netip.AddrPort{}, err
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)), nil
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port)), nil
	}
	return netip.AddrPort{}, nil
}

// familyName is the constant's name of an address family.
func familyName(family int) string {
	names := map[int]string{
		unix.AF_ALG: "AF_ALG", unix.AF_VSOCK: "AF_VSOCK", unix.AF_XDP: "AF_XDP", unix.AF_TIPC: "AF_TIPC",
		unix.AF_CAN: "AF_CAN", unix.AF_KEY: "AF_KEY", unix.AF_BLUETOOTH: "AF_BLUETOOTH", unix.AF_RDS: "AF_RDS",
		unix.AF_KCM: "AF_KCM", unix.AF_SMC: "AF_SMC", unix.AF_QIPCRTR: "AF_QIPCRTR", unix.AF_PPPOX: "AF_PPPOX",
	}
	if name, ok := names[family]; ok {
		return name
	}
	return fmt.Sprintf("address family %d", family)
}

// protocolName is the usual name of an internet protocol.
func protocolName(proto int) string {
	names := map[int]string{
		unix.IPPROTO_SCTP: "SCTP", unix.IPPROTO_DCCP: "DCCP", unix.IPPROTO_ICMP: "ICMP", unix.IPPROTO_ICMPV6: "ICMPv6",
		115: "L2TP",
	}
	if name, ok := names[proto]; ok {
		return name
	}
	return fmt.Sprintf("protocol %d", proto)
}
