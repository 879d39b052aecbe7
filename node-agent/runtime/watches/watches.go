// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Package watches finds what processes watch with inotify and fanotify. The kernel
// knows a watch by its inode only, and CRIU asks the file system where that is. An
// overlay does not answer, and neither does a file system of which the pod sees a part
// only; there CRIU has to be told where to look.
package watches

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/node-agent/runtime/memory"
)

// Watch is what is watched.
type Watch struct {
	// Dev as the kernel has it in itself, and Ino the inode's number.
	Dev, Ino uint64
}

// String is how messages name a watch that has no path.
func (w Watch) String() string {
	return fmt.Sprintf("inode %d of device %d:%d", w.Ino, w.Dev>>minorBits, w.Dev&(1<<minorBits-1))
}

// minorBits of a device number in the kernel (linux/kdev_t.h).
const minorBits = 20

// Of returns what the processes watch, each once. Processes that end meanwhile are
// left out.
func Of(pids []int) ([]Watch, error) {
	var found []Watch
	for _, pid := range pids {
		w, err := of(pid)
		if err != nil && !memory.Gone(err) {
			return nil, fmt.Errorf("watches of process %d: %w", pid, err)
		}
		for _, w := range w {
			if !slices.Contains(found, w) {
				found = append(found, w)
			}
		}
	}
	return found, nil
}

func of(pid int) ([]Watch, error) {
	proc := "/proc/" + strconv.Itoa(pid)
	entries, err := os.ReadDir(proc + "/fd")
	if err != nil {
		return nil, err
	}
	var found []Watch
	for _, e := range entries {
		link, err := os.Readlink(proc + "/fd/" + e.Name())
		if err != nil || (link != "anon_inode:inotify" && link != "anon_inode:[fanotify]") {
			continue // also one that was closed meanwhile
		}
		info, err := os.ReadFile(proc + "/fdinfo/" + e.Name())
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		w, err := parse(string(info))
		if err != nil {
			return nil, err
		}
		found = append(found, w...)
	}
	return found, nil
}

// parse reads the lines of a descriptor's information that name an inode:
//
//	inotify wd:1 ino:2b6 sdev:34 mask:2 ignored_mask:0 fhandle-bytes:…
func parse(info string) ([]Watch, error) {
	var found []Watch
	for line := range strings.Lines(info) {
		if !strings.HasPrefix(line, "inotify ") && !strings.HasPrefix(line, "fanotify ") {
			continue
		}
		var w Watch
		named := 0
		for _, field := range strings.Fields(line) {
			key, value, _ := strings.Cut(field, ":")
			into := map[string]*uint64{"ino": &w.Ino, "sdev": &w.Dev}[key]
			if into == nil {
				continue
			}
			n, err := strconv.ParseUint(value, 16, 64)
			if err != nil {
				return nil, fmt.Errorf("%q: %w", line, err)
			}
			*into = n
			named++
		}
		if named == 2 { // other marks of fanotify are of a mount, or of a file system
			found = append(found, w)
		}
	}
	return found, nil
}

const (
	// maxEntries bounds a search; a container has some ten thousand files.
	maxEntries = 1 << 20
	// batch of names of a directory that are read at a time.
	batch = 1024
)

// Paths finds where the watches are below root, a process's root directory
// (/proc/PID/root). A watch that is missing in the answer has no path there, or
// one that CRIU's configuration cannot name. It looks into mounts only for what is
// watched in them, and takes what the kernel knows already, so that a volume which does
// not answer does not hold it up.
func Paths(ctx context.Context, root string, wanted []Watch) (map[Watch]string, error) {
	s := search{ctx: ctx, root: root, wanted: map[Watch]bool{}, devices: map[uint64]bool{}, found: map[Watch]string{}}
	for _, w := range wanted {
		s.wanted[w] = true
		s.devices[w.Dev] = true
	}
	if len(wanted) == 0 {
		return s.found, nil
	}
	var err error
	if s.top, err = os.OpenRoot(root + "/"); err != nil {
		return nil, err
	}
	defer s.top.Close()
	top, _, err := s.look("/")
	if errors.Is(err, errAllFound) {
		return s.found, nil
	}
	if err != nil {
		return nil, err
	}
	if err := s.descend("/", top.Dev); err != nil && !errors.Is(err, errAllFound) {
		return nil, err
	}
	return s.found, nil
}

// Is says whether the path is still that of the watch.
func Is(root, name string, w Watch) bool {
	s := search{root: root}
	is, _, err := s.look(name)
	return err == nil && is == w
}

var (
	errAllFound = errors.New("all watches were found")
	errTooMany  = fmt.Errorf("the container has more than %d files", maxEntries)
)

type search struct {
	ctx     context.Context
	root    string
	top     *os.Root
	wanted  map[Watch]bool
	devices map[uint64]bool
	found   map[Watch]string
	seen    int
}

// look returns what is at a path of the container, and whether it is a directory.
func (s *search) look(name string) (Watch, bool, error) {
	at := s.root + name
	if name == "/" {
		at = s.root + "/."
	}
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, at, unix.AT_SYMLINK_NOFOLLOW|unix.AT_STATX_DONT_SYNC|unix.AT_NO_AUTOMOUNT, unix.STATX_TYPE|unix.STATX_INO, &st)
	if err != nil {
		return Watch{}, false, fmt.Errorf("%s: %w", at, err)
	}
	dev := uint64(st.Dev_major)<<minorBits | uint64(st.Dev_minor)
	w := Watch{Dev: dev, Ino: st.Ino}
	if s.wanted[w] && s.found[w] == "" && nameable(name) {
		s.found[w] = name
		if len(s.found) == len(s.wanted) {
			return w, false, errAllFound
		}
	}
	return w, st.Mode&unix.S_IFMT == unix.S_IFDIR, nil
}

func (s *search) descend(dir string, dev uint64) error {
	if err := s.ctx.Err(); err != nil {
		return err
	}
	// The pod may change what is there at any moment: no link is followed out of it.
	d, err := s.top.OpenFile("."+dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil // what cannot be read has nothing in it that is found
	}
	defer d.Close()
	for {
		// Not all of it at once, whatever its size. An error is the end, or that of a
		// directory that went away.
		names, _ := d.Readdirnames(batch)
		if len(names) == 0 {
			return nil
		}
		for _, name := range names {
			if s.seen++; s.seen > maxEntries {
				return errTooMany
			}
			full := path.Join(dir, name)
			w, isDir, err := s.look(full)
			if errors.Is(err, errAllFound) {
				return err
			}
			if err != nil || !isDir || (w.Dev != dev && !s.devices[w.Dev]) {
				continue
			}
			if err := s.descend(full, w.Dev); err != nil {
				return err
			}
		}
	}
}

// nameable says whether a line of CRIU's configuration can hold the path.
func nameable(name string) bool {
	return !strings.ContainsFunc(name, func(r rune) bool {
		return r <= ' ' || r == 0x7f || strings.ContainsRune(`"'\#`, r)
	})
}
