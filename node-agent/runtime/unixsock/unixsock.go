// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Package unixsock asks the kernel for the Unix sockets of a network namespace and what
// they are connected to (sock_diag(7)).
package unixsock

import (
	"errors"
	"fmt"
	"strings"
	"unicode"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// States of a Unix socket, as the kernel numbers them (net/tcp_states.h).
const (
	established = 1
	listening   = 10
)

// Unnamed is the name of a socket without one.
const Unnamed = "unnamed"

// Socket is a Unix socket.
type Socket struct {
	Inode uint64
	// Peer is the inode of the socket that this one is connected to; 0 when there is
	// none, when it is closed already, or when it waits to be accepted.
	Peer uint64
	// Stream: it is of a kind that has connections (SOCK_STREAM, SOCK_SEQPACKET).
	Stream bool
	// Connected and Listening: its state.
	Connected, Listening bool
	// Waiting connections are those that a socket that listens has yet to accept.
	Waiting int
	// Name for people ("/run/app.sock", "@app"), of the other end when it has none
	// itself, Unnamed when neither has one.
	Name string
}

// Namespace is a network namespace that is open. Close it.
type Namespace struct{ h *netlink.Handle }

// Open opens the network of a process.
func Open(pid int) (*Namespace, error) {
	ns, err := netns.GetFromPid(pid)
	if err != nil {
		return nil, fmt.Errorf("open the network of process %d: %w", pid, err)
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, fmt.Errorf("open netlink in the network of process %d: %w", pid, err)
	}
	return &Namespace{h}, nil
}

// Close closes it.
func (n *Namespace) Close() { n.h.Close() }

// tries is how often an answer that was interrupted is asked for again.
const tries = 10

// Sockets are all Unix sockets of the namespace, by inode. While processes open and
// close sockets, some may be missing.
func (n *Namespace) Sockets() (map[uint64]*Socket, error) {
	all, err := n.h.UnixSocketDiagInfo()
	for i := 0; errors.Is(err, netlink.ErrDumpInterrupted) && i < tries; i++ {
		all, err = n.h.UnixSocketDiagInfo()
	}
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list Unix sockets: %w", err)
	}
	found := make(map[uint64]*Socket, len(all))
	for _, d := range all {
		s := &Socket{
			Inode:     uint64(d.DiagMsg.INode),
			Stream:    d.DiagMsg.Type == unix.SOCK_STREAM || d.DiagMsg.Type == unix.SOCK_SEQPACKET,
			Connected: d.DiagMsg.State == established,
			Listening: d.DiagMsg.State == listening,
		}
		if d.Peer != nil {
			s.Peer = uint64(*d.Peer)
		}
		if s.Listening && d.Queue != nil {
			s.Waiting = int(d.Queue.RQueue)
		}
		if d.Name != nil {
			s.Name = readable(*d.Name)
		}
		found[s.Inode] = s
	}
	names := make(map[uint64]string, len(found))
	for inode, s := range found {
		names[inode] = s.Name
	}
	for _, s := range found {
		if s.Name == "" {
			s.Name = names[s.Peer]
		}
		if s.Name == "" {
			s.Name = Unnamed
		}
	}
	return found, nil
}

// readable writes a name for people: an abstract one as it is usually written. What
// follows the first control character is not the name's: the library hands out a few
// bytes of what comes after it.
func readable(name string) string {
	abstract := strings.HasPrefix(name, "\x00")
	name = strings.TrimPrefix(name, "\x00")
	if i := strings.IndexFunc(name, unicode.IsControl); i >= 0 {
		name = name[:i]
	}
	if abstract {
		return "@" + name
	}
	return name
}
