// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Package files carries what a pod's processes have written, and CRIU does not: the
// upper directory of a container's overlay root file system, the content of /dev/shm,
// emptyDirs. Each packing of a tree is one tar stream, so that a volume sees a few files
// and not thousands. The first has all of the tree, the next ones what has changed since.
package files

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/node-agent/runtime"
	"godwit.dev/godwit/node-agent/runtime/cgroup"
	"godwit.dev/godwit/node-agent/runtime/host"
)

var (
	// ErrHostile means that an archive holds what Pack never writes: device
	// nodes, names or links that lead outside, privileged attributes. Do not
	// restore from this image set.
	// Every such error is an *ArchiveError or wraps one.
	ErrHostile = errors.New("unacceptable archive")
	// ErrNotPackable is runtime.ErrNotPackable.
	ErrNotPackable = runtime.ErrNotPackable
)

// Options configure Files. Only Host is required.
type Options struct {
	// Host is the node.
	Host *host.Host
	// Cgroup lists processes; default cgroup.New with its defaults.
	Cgroup *cgroup.Control
	// StateDir is below which the directories mounted at /dev/shm lie.
	// Default "/run/containerd".
	StateDir string
	// KubeletDir is where kubelet keeps the pods' volumes. Default "/var/lib/kubelet".
	KubeletDir string
	// LogDir is where kubelet has the containers' logs. Default "/var/log/pods".
	LogDir string
}

// Files implements runtime.Files.
type Files struct{ o Options }

var _ runtime.Files = (*Files)(nil)

// New returns Files.
func New(o Options) *Files {
	if o.Cgroup == nil {
		o.Cgroup = cgroup.New(cgroup.Options{Host: o.Host})
	}
	if o.StateDir == "" {
		o.StateDir = "/run/containerd"
	}
	if o.KubeletDir == "" {
		o.KubeletDir = "/var/lib/kubelet"
	}
	if o.LogDir == "" {
		o.LogDir = "/var/log/pods"
	}
	return &Files{o}
}

// clockSlack is by how much a file's time may be behind the clock: the kernel takes it
// from its last tick.
const clockSlack = 100 * time.Millisecond

// Pack writes the archive of a tree, durable when it returns.
func (f *Files) Pack(ctx context.Context, t runtime.Tree, o runtime.PackOptions) (runtime.Packed, error) {
	since, err := asCopied(o.Since)
	if err != nil {
		return runtime.Packed{}, err
	}
	p := &packer{overlay: t.Overlay, still: len(o.Running) == 0, since: since, racyFrom: time.Now().Add(-clockSlack)}
	if !p.still {
		// Before anything is read: who begins to write later changes the times.
		if p.busy, err = f.busyFiles(ctx, o.Running); err != nil {
			return runtime.Packed{}, fmt.Errorf("pack %s: %w", t.Name, err)
		}
	}
	if p.root, err = f.o.Host.Open(t.Dir, unix.O_PATH|unix.O_DIRECTORY, 0); err != nil {
		return runtime.Packed{}, fmt.Errorf("pack %s: %w", t.Name, err)
	}
	defer p.root.Close()
	out := &archiveFile{host: f.o.Host, dir: o.Dir, name: t.Archive()}
	buf := bufio.NewWriterSize(out, 1<<20)
	p.out = buf
	now, err := p.pack(ctx)
	if err == nil {
		err = buf.Flush()
	}
	bytes, cerr := out.finish(err == nil)
	if err := errors.Join(err, cerr); err != nil {
		return runtime.Packed{}, noSpace(fmt.Errorf("pack %s: %w", t.Name, err))
	}
	return runtime.Packed{Bytes: bytes, Copied: now}, nil
}

func asCopied(c runtime.Copied) (*copied, error) {
	if c == nil {
		return nil, nil
	}
	since, ok := c.(*copied)
	if !ok {
		return nil, fmt.Errorf("%T is not of these files", c)
	}
	return since, nil
}

// archiveFile is made when something is written into it.
type archiveFile struct {
	host      *host.Host
	dir, name string
	file, in  *os.File
}

func (a *archiveFile) Write(b []byte) (int, error) {
	if a.file == nil {
		var err error
		if a.in, err = a.host.MkdirAll(a.dir, 0o700); err != nil {
			return 0, err
		}
		a.file, err = os.OpenFile(filepath.Join(host.FDPath(a.in), a.name), os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return 0, errors.Join(err, a.in.Close())
		}
	}
	return a.file.Write(b)
}

// finish makes the file durable, if there is one that is worth it, and returns its size.
func (a *archiveFile) finish(worth bool) (int64, error) {
	if a.file == nil {
		return 0, nil
	}
	var err error
	var size int64
	if worth {
		var fi os.FileInfo
		if err = errors.Join(a.file.Sync(), a.in.Sync()); err == nil {
			if fi, err = a.file.Stat(); err == nil {
				size = fi.Size()
			}
		}
	}
	return size, errors.Join(err, a.file.Close(), a.in.Close())
}

// Size implements runtime.Files.
func (f *Files) Size(ctx context.Context, t runtime.Tree) (int64, error) {
	root, err := f.o.Host.Open(t.Dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return 0, fmt.Errorf("size of %s: %w", t.Name, err)
	}
	defer root.Close()
	n, err := sizeOf(ctx, root, t.Overlay)
	if err != nil {
		return n, fmt.Errorf("size of %s: %w", t.Name, err)
	}
	return n, nil
}

// Unpack applies an archive to a tree. Nobody uses the tree, but runc may be preparing a
// restore, and have the pod's volumes mounted below the root file system for a moment:
// what is written goes beneath them.
func (f *Files) Unpack(ctx context.Context, t runtime.Tree, archive io.Reader, size int64) error {
	to, err := f.o.Host.OpenAlone(t.Dir)
	if err != nil {
		return fmt.Errorf("unpack %s: %w", t.Name, err)
	}
	defer to.Close()
	if err := room(ctx, to, size); err != nil {
		return fmt.Errorf("unpack %s: %w", t.Name, err)
	}
	root, err := os.OpenRoot(host.FDPath(to))
	if err != nil {
		return fmt.Errorf("unpack %s: %w", t.Name, err)
	}
	defer root.Close()
	err = newUnpacker(root, t.Overlay, size).unpack(ctx, bufio.NewReaderSize(io.LimitReader(archive, size), 1<<20))
	if err != nil {
		return noSpace(fmt.Errorf("unpack %s: %w", t.Name, err))
	}
	return nil
}

// spare is the part of a node's disk that is left alone: kubelet evicts pods of a node
// that has less.
const spare = 0.1

// room says whether there is room for so many bytes. What is in the tree already may be
// what they replace: then its room is theirs.
func room(ctx context.Context, dir *os.File, bytes int64) error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &st); err != nil {
		return fmt.Errorf("statfs: %w", err)
	}
	free, all := int64(st.Bavail)*st.Frsize, int64(st.Blocks)*st.Frsize
	if st.Type != unix.TMPFS_MAGIC {
		free -= int64(spare * float64(all))
	}
	if free < bytes {
		have, err := sizeOf(ctx, dir, false)
		if err != nil && !errors.Is(err, ErrNotPackable) {
			return err
		}
		free += have
	}
	if free < bytes {
		return fmt.Errorf("%w: %d bytes are needed on the node, %d can be used", runtime.ErrNoSpace, bytes, max(free, 0))
	}
	return nil
}

// noSpace marks an error that comes from a full disk.
func noSpace(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("%w: %w", runtime.ErrNoSpace, err)
	}
	return err
}
