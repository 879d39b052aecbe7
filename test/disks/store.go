// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// store is the directory on the file server: ID.img is a disk, ID.node names the node
// that it is attached to, and is not there while it is attached to none. Several nodes
// use it at a time; only what the server itself decides is relied upon.
type store struct{ dir string }

// errElsewhere says that another node has the disk.
var errElsewhere = errors.New("the disk is attached to another node")

func (s store) disk(id string) string   { return filepath.Join(s.dir, id+".img") }
func (s store) holder(id string) string { return filepath.Join(s.dir, id+".node") }

// attach gives the disk to the node; once more is as good as once. errElsewhere when
// another has it.
func (s store) attach(id, node string) error {
	f, err := os.CreateTemp(s.dir, ".attach-")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	_, err = f.WriteString(node)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	// A link appears with its content, and for one of several who make it.
	if err := os.Link(f.Name(), s.holder(id)); err == nil || !errors.Is(err, fs.ErrExist) {
		return err
	}
	return s.attached(id, node)
}

// attached returns nil if the node has the disk, else errElsewhere.
func (s store) attached(id, node string) error {
	has, err := os.ReadFile(s.holder(id))
	if err == nil && string(has) != node {
		err = fmt.Errorf("%w: %s has it", errElsewhere, has)
	}
	return err
}

// detach takes the disk away from the node, or from whichever has it if node is empty.
// It is well if the node does not have it.
func (s store) detach(id, node string) error {
	if node != "" {
		if err := s.attached(id, node); errors.Is(err, errElsewhere) || errors.Is(err, fs.ErrNotExist) {
			return nil
		} else if err != nil {
			return err
		}
	}
	if err := os.Remove(s.holder(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// open opens the disk, and makes it and its file system where there is none.
func (s store) open(ctx context.Context, id string, size int64) (*os.File, error) {
	f, err := os.OpenFile(s.disk(id), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	formatted, err := isExt4(f)
	if err == nil && !formatted {
		if err = f.Truncate(size); err == nil {
			err = format(ctx, f.Name())
		}
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// isExt4 looks for the magic number of the super block.
func isExt4(f *os.File) (bool, error) {
	info, err := f.Stat()
	if err != nil || info.Size() == 0 {
		return false, err
	}
	var magic [2]byte
	_, err = f.ReadAt(magic[:], 1024+56)
	return magic == [2]byte{0x53, 0xef}, err
}

// format makes a file system. What can be left for later is, and later never comes:
// see mount.
func format(ctx context.Context, file string) error {
	out, err := exec.CommandContext(ctx, "mke2fs", "-q", "-F", "-t", "ext4", "-m", "0",
		"-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", file).CombinedOutput()
	if err != nil {
		return fmt.Errorf("mke2fs: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}
