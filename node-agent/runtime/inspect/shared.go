// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package inspect

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"

	"godwit.dev/godwit/internal/thread"
	"godwit.dev/godwit/node-agent/runtime"
	"godwit.dev/godwit/node-agent/runtime/unixsock"
)

// What containers of a pod can have in common although each is dumped by itself.

// foreignPeers are the Unix sockets among own, inodes of sockets in the network of a
// process, whose other end is not among them.
func foreignPeers(pid int, own map[uint64]bool) ([]runtime.UnixPeer, error) {
	ns, err := unixsock.Open(pid)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	all, err := ns.Sockets()
	if err != nil {
		return nil, err
	}
	// A socket that accepts makes the accepted end in the network of the one that connects.
	// So what a container is connected to on the node is in this list, but the name that
	// it has there is no listener's of this network.
	listeners := map[string]bool{unixsock.Unnamed: true}
	for _, s := range all {
		if s.Listening {
			listeners[s.Name] = true
		}
	}
	var found []runtime.UnixPeer
	for inode, s := range all {
		if own[inode] && s.Peer != 0 && !own[s.Peer] {
			inPod := all[s.Peer] != nil && (listeners[s.Name] || !s.Stream)
			found = append(found, runtime.UnixPeer{Name: s.Name, InPod: inPod, Stream: s.Stream})
		}
	}
	slices.SortFunc(found, func(a, b runtime.UnixPeer) int { return cmp.Compare(a.Name, b.Name) })
	return found, nil
}

// unixSocket looks at a Unix socket, of which fd is a copy: one that the container has
// accepted from a process of the node is, like that process's, of the node's network,
// and in no list of the pod's.
func (g *gatherer) unixSocket(pid, fd int) error {
	g.unix = true
	network, err := unix.IoctlRetInt(fd, unix.SIOCGSKNS)
	if err != nil {
		return fmt.Errorf("SIOCGSKNS: %w", err)
	}
	defer unix.Close(network)
	var has, own unix.Stat_t
	if err := unix.Fstat(network, &has); err != nil {
		return err
	}
	if err := unix.Stat(fmt.Sprintf("/proc/%d/ns/net", pid), &own); err != nil {
		return err
	}
	if has.Ino == own.Ino && has.Dev == own.Dev {
		return nil
	}
	name := unixsock.Unnamed
	if a, err := unix.Getsockname(fd); err == nil {
		if u, ok := a.(*unix.SockaddrUnix); ok && u.Name != "" {
			name = u.Name
		}
	}
	g.in.ForeignUnixPeers = append(g.in.ForeignUnixPeers, runtime.UnixPeer{Name: name, Stream: true})
	return nil
}

// sysvObjects says whether there are segments, semaphores or queues of System V IPC
// where the process is.
func sysvObjects(pid int) (bool, error) {
	ns, err := os.Open("/proc/" + strconv.Itoa(pid) + "/ns/ipc")
	if err != nil {
		return false, err
	}
	defer ns.Close()
	found := false
	err = thread.Do(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWIPC); err != nil {
			return fmt.Errorf("enter the IPC of process %d: %w", pid, err)
		}
		var errs error
		for _, kind := range []string{"shm", "sem", "msg"} {
			b, err := os.ReadFile("/proc/sysvipc/" + kind)
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				errs = errors.Join(errs, err)
			}
			// The first line is a heading.
			found = found || bytes.Count(b, []byte("\n")) > 1
		}
		return errs
	})
	return found, err
}

// nameless notes memory that is shared and cannot be found by a name.
func (g *gatherer) nameless(m *procfs.ProcMap) {
	if m.Perms != nil && m.Perms.Shared && m.Inode != 0 && strings.HasSuffix(m.Pathname, " (deleted)") {
		g.note(fmt.Sprintf("memory %s (%d:%d)", strings.TrimSuffix(m.Pathname, " (deleted)"), m.Dev, m.Inode))
	}
}

func (g *gatherer) note(object string) {
	if g.objects == nil {
		g.objects = map[string]bool{}
	}
	if !g.objects[object] {
		g.objects[object] = true
		g.in.Nameless = append(g.in.Nameless, object)
	}
}
