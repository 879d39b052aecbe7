// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Package ties ends what the containers of a pod have connected with one another over
// Unix sockets, while all of them are frozen.
//
// Each container is dumped by itself, and CRIU takes a connected Unix socket only with
// both of its ends, or when the other end is closed already: then it restores a socket
// that reads the end of the stream, as after a peer that has left. A socket is closed
// by its own process only. So a connection is shut down first, and then one of its two
// containers is let run, alone, until it has closed its end. The others stand still
// meanwhile and can open no connection; what the one that runs opens to them is not
// accepted, and is accepted and closed here in their place: of a connection that waits
// CRIU would need both ends, too (https://criu.org/Unix_sockets).
package ties

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/node-agent/runtime"
	"godwit.dev/godwit/node-agent/runtime/unixsock"
)

const (
	// DefaultPatience is how long all containers together may take to close their ends.
	DefaultPatience = 5 * time.Second
	// lookInterval is how often it is looked whether they have: a few packets of
	// netlink each time.
	lookInterval = 2 * time.Millisecond
)

// Options configure a Separator. Freezer and Processes are required.
type Options struct {
	Freezer runtime.Freezer
	// Processes lists the processes in a cgroup.
	Processes func(cgroupDir string) ([]int, error)
	// Patience: see DefaultPatience.
	Patience time.Duration
}

// Separator implements runtime.Separator.
type Separator struct{ o Options }

var _ runtime.Separator = (*Separator)(nil)

// New returns a Separator.
func New(o Options) *Separator {
	if o.Patience == 0 {
		o.Patience = DefaultPatience
	}
	return &Separator{o}
}

// Separate implements runtime.Separator.
func (s *Separator) Separate(ctx context.Context, cs []runtime.Container) (int, error) {
	if len(cs) < 2 {
		return 0, nil
	}
	ns, err := unixsock.Open(cs[0].PID)
	if err != nil {
		return 0, err
	}
	defer ns.Close()
	ctx, cancel := context.WithTimeout(ctx, s.o.Patience)
	defer cancel()

	ended := 0
	// Of n containers the last has nothing left to close.
	for range cs {
		p, err := s.look(ns, cs)
		if err != nil {
			return ended, err
		}
		n, err := p.turnAway()
		ended += n
		if err != nil {
			return ended, err
		}
		if n, err = p.cut(); err != nil {
			return ended, err
		}
		next := p.busiest()
		if next < 0 {
			return ended, nil
		}
		ended += n
		if err := s.letClose(ctx, ns, cs[next], p.endsOf(next)); err != nil {
			return ended, err
		}
	}
	p, err := s.look(ns, cs)
	if err != nil {
		return ended, err
	}
	if next := p.busiest(); next >= 0 {
		return ended, fmt.Errorf("%w: %s is connected again (%s)", runtime.ErrTied, cs[next].Name, p.names(p.endsOf(next)))
	}
	n, err := p.turnAway()
	return ended + n, err
}

// letClose lets one container run until it has closed the sockets.
func (s *Separator) letClose(ctx context.Context, ns *unixsock.Namespace, c runtime.Container, ends []*end) error {
	if err := s.o.Freezer.Thaw(ctx, c); err != nil {
		return err
	}
	err := awaitClosed(ctx, ns, c, slices.Clone(ends))
	// Also when it has not: who undoes this finds all of them frozen.
	freezing, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.o.Patience)
	defer cancel()
	return errors.Join(err, s.o.Freezer.Freeze(freezing, c))
}

// awaitClosed returns when none of a container's sockets is there any more.
func awaitClosed(ctx context.Context, ns *unixsock.Namespace, c runtime.Container, open []*end) error {
	timer := time.NewTicker(lookInterval)
	defer timer.Stop()
	for {
		all, err := ns.Sockets()
		if err != nil {
			return err
		}
		open = slices.DeleteFunc(open, func(e *end) bool { return all[e.Inode] == nil })
		if len(open) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: container %q does not close its end of %s although the connection was shut down", runtime.ErrTied, c.Name, open[0].Name)
		case <-timer.C:
		}
	}
}

// end is a Unix socket of a container.
type end struct {
	*unixsock.Socket
	container int
	pid, fd   int
}

// picture is what is connected at a moment at which all stand still.
type picture struct {
	own map[uint64]*end
}

// look finds the containers' Unix sockets.
func (s *Separator) look(ns *unixsock.Namespace, cs []runtime.Container) (*picture, error) {
	p := &picture{own: map[uint64]*end{}}
	all, err := ns.Sockets()
	if err != nil {
		return nil, err
	}
	interesting := false
	for _, d := range all {
		interesting = interesting || d.Stream && (d.Connected || d.Waiting > 0)
	}
	if !interesting {
		return p, nil
	}
	for i, c := range cs {
		pids, err := s.o.Processes(c.CgroupDir)
		if err != nil {
			return nil, err
		}
		for _, pid := range pids {
			err := sockets(pid, func(fd int, inode uint64) {
				if d := all[inode]; d != nil && p.own[inode] == nil {
					p.own[inode] = &end{Socket: d, container: i, pid: pid, fd: fd}
				}
			})
			if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ESRCH) {
				return nil, fmt.Errorf("look at the sockets of process %d of %s: %w", pid, c.Name, err)
			}
		}
	}
	return p, nil
}

// peerOf is the other end, when another container has it.
func (p *picture) peerOf(e *end) *end {
	if !e.Stream || !e.Connected {
		return nil
	}
	peer := p.own[e.Peer]
	if peer == nil || peer.container == e.container {
		return nil
	}
	return peer
}

// cut shuts the connections between containers down, in both directions.
func (p *picture) cut() (int, error) {
	n := 0
	for _, e := range p.own {
		peer := p.peerOf(e)
		if peer == nil || e.Inode > peer.Inode && p.peerOf(peer) == e {
			continue
		}
		err := e.open(func(fd int) error { return unix.Shutdown(fd, unix.SHUT_RDWR) })
		// ENOTCONN: it was closed since.
		if err != nil && !errors.Is(err, unix.ENOTCONN) {
			return n, fmt.Errorf("shut down the connection to %s: %w", e.Name, err)
		}
		n++
	}
	return n, nil
}

// turnAway closes the connections that nobody has accepted yet.
func (p *picture) turnAway() (int, error) {
	n := 0
	for _, e := range p.own {
		if e.Waiting == 0 {
			continue
		}
		err := e.open(func(fd int) error {
			// So many, and no more, whoever connects meanwhile: the pod's own stand still.
			for range e.Waiting {
				ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
				if k, err := unix.Poll(ready, 0); err != nil || k == 0 {
					if errors.Is(err, unix.EINTR) {
						continue
					}
					return err
				}
				own, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
				if err != nil {
					return err
				}
				n++
				if err := unix.Close(own); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return n, fmt.Errorf("turn away who waits at %s: %w", e.Name, err)
		}
	}
	return n, nil
}

// busiest is the container with the most ends of connections to others, -1 for none.
func (p *picture) busiest() int {
	count := map[int]int{}
	best := -1
	for _, e := range p.own {
		if p.peerOf(e) == nil {
			continue
		}
		count[e.container]++
		if best < 0 || count[e.container] > count[best] {
			best = e.container
		}
	}
	return best
}

// endsOf are a container's ends of connections to others.
func (p *picture) endsOf(container int) []*end {
	var out []*end
	for _, e := range p.own {
		if e.container == container && p.peerOf(e) != nil {
			out = append(out, e)
		}
	}
	return out
}

func (p *picture) names(ends []*end) string {
	var out []string
	for _, e := range ends {
		out = append(out, e.Name)
	}
	slices.Sort(out)
	return strings.Join(slices.Compact(out), ", ")
}

// open calls fn with a descriptor of our own for the socket.
func (e *end) open(fn func(fd int) error) error {
	pidfd, err := unix.PidfdOpen(e.pid, 0)
	if err != nil {
		return fmt.Errorf("open process %d: %w", e.pid, err)
	}
	defer unix.Close(pidfd)
	fd, err := unix.PidfdGetfd(pidfd, e.fd, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return fn(fd)
}

// sockets calls found with every socket of a process.
func sockets(pid int, found func(fd int, inode uint64)) error {
	dir := "/proc/" + strconv.Itoa(pid) + "/fd"
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	names, err := d.Readdirnames(-1)
	if err := errors.Join(err, d.Close()); err != nil {
		return err
	}
	for _, name := range names {
		target, err := os.Readlink(dir + "/" + name)
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			return err
		}
		text, ok := strings.CutPrefix(target, "socket:[")
		if !ok {
			continue
		}
		inode, err := strconv.ParseUint(strings.TrimSuffix(text, "]"), 10, 64)
		if err != nil {
			return err
		}
		fd, err := strconv.Atoi(name)
		if err != nil {
			return err
		}
		found(fd, inode)
	}
	return nil
}
