// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Package files carries what a container has written: the upper directory of
// its overlay root file system and the content of /dev/shm, each as one tar
// stream, so that a volume sees two files and not thousands.
package files

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"godwit.dev/godwit/node-agent/runtime"
	"godwit.dev/godwit/node-agent/runtime/host"
)

// Names of what Pack writes. A file whose source is empty is not written, and
// Unpack takes a missing one for an empty one: that the set is complete is the
// business of the manifest.
const (
	// RootfsName is the difference of the root file system, an OCI layer.
	RootfsName = "rootfs.tar"
	// ShmName is the content of /dev/shm.
	ShmName = "shm.tar"
)

var (
	// ErrHostile means that an archive holds what Pack never writes: device
	// nodes, names or links that lead outside, privileged attributes. Do not
	// restore from this image set.
	// Every such error is an *ArchiveError or wraps one.
	ErrHostile = errors.New("unacceptable archive")
	// ErrNotPackable means that a container's files cannot be carried. Refuse
	// the migration; a retry is useless.
	ErrNotPackable = errors.New("files cannot be carried")
)

// Options configure Files. Only Host is required.
type Options struct {
	// Host is the node.
	Host *host.Host
	// StateDir is below which the directories mounted at /dev/shm lie.
	// Default "/run/containerd".
	StateDir string
}

// Files implements runtime.Files.
type Files struct{ o Options }

var _ runtime.Files = (*Files)(nil)

// New returns Files.
func New(o Options) *Files {
	if o.StateDir == "" {
		o.StateDir = "/run/containerd"
	}
	return &Files{o}
}

// Pack writes RootfsName and ShmName into dir, durable when it returns.
func (f *Files) Pack(ctx context.Context, c runtime.Container, dir string) (int64, error) {
	out, err := f.o.Host.MkdirAll(dir, 0o700)
	if err != nil {
		return 0, noSpace(fmt.Errorf("pack %s: %w", c.ID, err))
	}
	defer out.Close()
	var total int64
	for _, part := range []struct {
		source, name string
		overlay      bool
	}{{c.UpperDir, RootfsName, true}, {c.ShmDir, ShmName, false}} {
		if part.source == "" {
			continue
		}
		n, err := f.packDir(ctx, part.source, out, part.name, part.overlay)
		if err != nil {
			return total, noSpace(fmt.Errorf("pack %s of %s: %w", part.source, c.ID, err))
		}
		total += n
	}
	if total > 0 {
		if err := out.Sync(); err != nil {
			return total, noSpace(fmt.Errorf("pack %s: %w", c.ID, err))
		}
	}
	return total, nil
}

// packDir writes one directory as a tar file, unless it is empty.
func (f *Files) packDir(ctx context.Context, source string, dir *os.File, name string, overlay bool) (n int64, err error) {
	src, err := f.o.Host.Open(source, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return 0, err
	}
	defer src.Close()
	root, err := os.OpenRoot(host.FDPath(src))
	if err != nil {
		return 0, err
	}
	defer root.Close()
	if empty, err := isEmpty(root); err != nil || empty {
		return 0, err
	}
	file, err := os.OpenFile(filepath.Join(host.FDPath(dir), name), os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	buf := bufio.NewWriterSize(file, 1<<20)
	p := newPacker(root, buf, overlay)
	if err := p.pack(ctx); err != nil {
		return 0, err
	}
	if err := buf.Flush(); err != nil {
		return 0, err
	}
	fi, err := file.Stat()
	if err != nil {
		return 0, err
	}
	return fi.Size(), file.Sync()
}

func isEmpty(root *os.Root) (bool, error) {
	d, err := root.Open(".")
	if err != nil {
		return false, err
	}
	defer d.Close()
	names, err := d.Readdirnames(1)
	if len(names) > 0 {
		return false, nil
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	return true, nil
}

// Unpack applies what Pack wrote to the container whose root file system is
// mounted at bundle/rootfs. The container has not started, but runc may be preparing
// its restore, and have the pod's volumes mounted below the root file system for a
// moment: what is written goes beneath them.
func (f *Files) Unpack(ctx context.Context, dir, bundle string) error {
	if err := f.unpackInto(ctx, path.Join(dir, RootfsName), path.Join(bundle, "rootfs"), true); err != nil {
		return fmt.Errorf("unpack the root file system: %w", err)
	}
	shm, err := f.shmDir(bundle)
	if err != nil {
		return err
	}
	if shm == "" {
		return nil
	}
	if err := f.unpackInto(ctx, path.Join(dir, ShmName), shm, false); err != nil {
		return fmt.Errorf("unpack /dev/shm: %w", err)
	}
	return nil
}

// shmDir is the directory on the node that the bundle's container will see as
// /dev/shm; "" when it gets a file system of its own there, which CRIU fills.
func (f *Files) shmDir(bundle string) (string, error) {
	b, err := f.o.Host.ReadFile(path.Join(bundle, "config.json"))
	if err != nil {
		return "", err
	}
	var spec specs.Spec
	if err := json.Unmarshal(b, &spec); err != nil {
		return "", fmt.Errorf("read the bundle's configuration: %w", err)
	}
	source := ""
	for _, m := range spec.Mounts {
		if path.Clean(m.Destination) == "/dev/shm" {
			source = ""
			if m.Type == "bind" {
				source = path.Clean(m.Source)
			}
		}
	}
	// The node's own /dev/shm (hostIPC) is not ours to fill.
	if source != "" && !strings.HasPrefix(source, path.Clean(f.o.StateDir)+"/") {
		return "", hostile(runtime.RefusedArchive, "/dev/shm is %s, outside %s", source, f.o.StateDir)
	}
	return source, nil
}

// unpackInto applies an archive to a directory of the node.
func (f *Files) unpackInto(ctx context.Context, file, dest string, layer bool) error {
	in, err := f.o.Host.Open(file, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer in.Close()
	fi, err := in.Stat()
	if err != nil {
		return err
	}
	if !fi.Mode().IsRegular() {
		return hostile(runtime.RefusedArchive, "%s is not a regular file", file)
	}
	to, err := f.o.Host.OpenAlone(dest)
	if err != nil {
		return err
	}
	defer to.Close()
	root, err := os.OpenRoot(host.FDPath(to))
	if err != nil {
		return err
	}
	defer root.Close()
	return noSpace(newUnpacker(root, layer, fi.Size()).unpack(ctx, bufio.NewReaderSize(io.LimitReader(in, fi.Size()), 1<<20)))
}

// noSpace marks an error that comes from a full disk.
func noSpace(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("%w: %w", runtime.ErrNoSpace, err)
	}
	return err
}
