// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Package host reaches the node from inside the agent's container: its files
// through /proc/1/root, and its commands by starting them in the namespaces of
// the node's init process. The agent's image therefore needs no nsenter, no
// runc and no criu of its own; those of the node are used.
//
// Run directly on a node (tests), pid 1's namespaces are the caller's own and
// the same code works unchanged.
package host

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// Options configure a Host.
type Options struct {
	// InitPID is the process whose root directory and namespaces are the
	// node's. Default 1; the agent's pod has hostPID.
	InitPID int
	// CgroupName is the cgroup that commands run in, below the root of the
	// cgroup v2 hierarchy. Default "godwit". It must not lie in the agent's own
	// cgroup: kubelet kills that whole when the agent's pod restarts, and a
	// running dump must never be killed.
	CgroupName string
}

// Host is the node.
type Host struct {
	init   int
	root   *os.File // O_PATH descriptor of the node's root directory
	cgroup string   // node path of the commands' cgroup
}

// CgroupRoot is where the cgroup v2 hierarchy is mounted on the node.
const CgroupRoot = "/sys/fs/cgroup"

// New opens the node's root directory and creates the cgroup for commands. It
// fails when the node has no cgroup v2 hierarchy or the caller is not root.
func New(o Options) (*Host, error) {
	if o.InitPID == 0 {
		o.InitPID = 1
	}
	if o.CgroupName == "" {
		o.CgroupName = "godwit"
	}
	rootPath := "/proc/" + strconv.Itoa(o.InitPID) + "/root"
	root, err := os.OpenFile(rootPath, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the node's root directory: %w", err)
	}
	h := &Host{init: o.InitPID, root: root, cgroup: path.Join(CgroupRoot, o.CgroupName)}
	var st unix.Statfs_t
	dir, err := h.Open(CgroupRoot, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the node's cgroups: %w", err), root.Close())
	}
	defer dir.Close()
	if err := unix.Fstatfs(int(dir.Fd()), &st); err != nil || st.Type != unix.CGROUP2_SUPER_MAGIC {
		return nil, errors.Join(errors.New("the node has no unified cgroup v2 hierarchy"), err, root.Close())
	}
	if err := unix.Mkdirat(int(dir.Fd()), o.CgroupName, 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, errors.Join(fmt.Errorf("create cgroup %s: %w", h.cgroup, err), root.Close())
	}
	return h, nil
}

// Close releases the descriptor of the node's root.
func (h *Host) Close() error { return h.root.Close() }

// GroupDir is the cgroup directory of a Command.Group, a path of the node. It is
// there while commands of the group run and may be before and after.
func (h *Host) GroupDir(group string) string { return path.Join(h.cgroup, group) }

// RemoveGroup removes the cgroup of a group. One in which a command runs, or
// that is not there, is left as it is.
func (h *Host) RemoveGroup(group string) error {
	err := h.Enter(func() error { return unix.Rmdir(h.GroupDir(group)) })
	if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// Open opens a file of the node. Unlike a path that begins with /proc/1/root it
// also follows absolute symbolic links within the node's root: /proc/1/root/var/run
// would lead to the agent's own /run.
func (h *Host) Open(name string, flag int, perm os.FileMode) (*os.File, error) {
	how := unix.OpenHow{
		Flags:   uint64(flag | unix.O_CLOEXEC),
		Resolve: unix.RESOLVE_IN_ROOT,
	}
	if flag&unix.O_CREAT != 0 {
		how.Mode = uint64(perm.Perm())
	}
	for {
		fd, err := unix.Openat2(int(h.root.Fd()), name, &how)
		// EAGAIN: a rename raced with the look-up of "..", see openat2(2).
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) {
			continue
		}
		if err != nil {
			return nil, &os.PathError{Op: "open", Path: name, Err: err}
		}
		return os.NewFile(uintptr(fd), name), nil
	}
}

// OpenAlone opens a directory of the node with the file system it is in and without
// what is mounted below, now or later (open_tree(2)).
func (h *Host) OpenAlone(dir string) (*os.File, error) {
	var alone *os.File
	err := h.Enter(func() error {
		d, err := h.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
		if err != nil {
			return err
		}
		defer d.Close()
		fd, err := unix.OpenTree(int(d.Fd()), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
		if err != nil {
			return &os.PathError{Op: "open_tree", Path: dir, Err: err}
		}
		alone = os.NewFile(uintptr(fd), dir)
		return nil
	})
	return alone, err
}

// ReadFile reads a file of the node.
func (h *Host) ReadFile(name string) ([]byte, error) {
	f, err := h.Open(name, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAll(f)
}

// WriteFile replaces a file of the node: a reader sees the old or the new
// content, never a part, also after a crash.
func (h *Host) WriteFile(name string, data []byte, perm os.FileMode) error {
	dir, err := h.Open(path.Dir(name), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer dir.Close()
	return WriteAtomic(filepath.Join(FDPath(dir), path.Base(name)), data, perm)
}

// MkdirAll creates a directory of the node with its parents and opens it.
func (h *Host) MkdirAll(name string, perm os.FileMode) (*os.File, error) {
	clean := path.Clean("/" + name)
	for i := 1; i <= len(clean); i++ {
		if i < len(clean) && clean[i] != '/' {
			continue
		}
		parent, err := h.Open(path.Dir(clean[:i]), unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			return nil, err
		}
		err = unix.Mkdirat(int(parent.Fd()), path.Base(clean[:i]), uint32(perm.Perm()))
		parent.Close()
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return nil, &os.PathError{Op: "mkdir", Path: clean[:i], Err: err}
		}
	}
	return h.Open(clean, unix.O_RDONLY|unix.O_DIRECTORY, 0)
}

// Symlink makes a symbolic link of the node; one with another target, or a file of
// that name, is replaced.
func (h *Host) Symlink(target, name string) error {
	dir, err := h.Open(path.Dir(name), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer dir.Close()
	at := filepath.Join(FDPath(dir), path.Base(name))
	if have, err := os.Readlink(at); err == nil && have == target {
		return nil
	}
	err = os.Symlink(target, at)
	if errors.Is(err, os.ErrExist) {
		err = errors.Join(os.Remove(at), os.Symlink(target, at))
	}
	return err
}

// Remove removes a file of the node; one that is not there is not an error.
func (h *Host) Remove(name string) error {
	dir, err := h.Open(path.Dir(name), unix.O_PATH|unix.O_DIRECTORY, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := os.Remove(filepath.Join(FDPath(dir), path.Base(name))); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// FDPath is a path by which functions that want a name can use an open file or
// directory, whatever mount namespace it lives in. It is good while f is open.
func FDPath(f *os.File) string {
	return "/proc/self/fd/" + strconv.Itoa(int(f.Fd()))
}

// Path is a name by which a file of the node can be opened from the agent's
// mount namespace. Absolute symbolic links in it lead astray (see Open); use it
// only where a library wants a name, as for a socket below /run.
func (h *Host) Path(name string) string {
	return filepath.Join("/proc", strconv.Itoa(h.init), "root", name)
}
