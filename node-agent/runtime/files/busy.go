// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package files

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/node-agent/runtime"
	"godwit.dev/godwit/node-agent/runtime/memory"
)

// busy are the files whose times do not tell of every change. A shared mapping shows in
// them when a page is written for the first time, and on a tmpfs never again; a call
// that writes sets them when it begins, and may go on for long. Which file system a file
// is in is not looked at: one that is busy for nothing costs a reading.
type busy struct {
	inodes map[uint64]bool
	// paths in the containers' file systems: an overlay shows other inode numbers
	// than its upper directory has.
	paths map[string]bool
}

// busyFiles looks at the open files and the mappings of all processes of containers.
func (f *Files) busyFiles(ctx context.Context, containers []runtime.Container) (*busy, error) {
	b := &busy{inodes: map[uint64]bool{}, paths: map[string]bool{}}
	for _, c := range containers {
		pids, err := f.o.Cgroup.Processes(c.CgroupDir)
		if err != nil {
			return nil, err
		}
		for _, pid := range pids {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			if err := errors.Join(b.mapped(pid), b.open(pid)); err != nil {
				return nil, fmt.Errorf("open files of process %d of %s: %w", pid, c.ID, err)
			}
		}
	}
	return b, nil
}

// has says whether a file of a tree is busy.
func (b *busy) has(e *entry, overlay bool) bool {
	return b.inodes[e.st.Ino] || overlay && b.paths["/"+e.name]
}

// mapped notes the files that a process shares mappings of, be they writable now or not:
// they may have been.
func (b *busy) mapped(pid int) error {
	f, err := os.Open("/proc/" + strconv.Itoa(pid) + "/maps")
	if memory.Gone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		b.mapping(lines.Text())
	}
	if err := lines.Err(); err != nil && !memory.Gone(err) {
		return err
	}
	return nil
}

// mapping takes a line of /proc/PID/maps: addresses, rights, offset, device, inode, name.
func (b *busy) mapping(line string) {
	fields := strings.SplitN(line, " ", 6)
	if len(fields) < 5 || len(fields[1]) != 4 || fields[1][3] != 's' {
		return
	}
	inode, err := strconv.ParseUint(fields[4], 10, 64)
	if err != nil || inode == 0 {
		return
	}
	b.inodes[inode] = true
	if len(fields) == 6 {
		b.path(strings.TrimLeft(fields[5], " "))
	}
}

// path notes a name that the kernel has shown. It writes a line break as \012.
func (b *busy) path(name string) {
	if strings.HasPrefix(name, "/") {
		b.paths[path.Clean(strings.ReplaceAll(name, `\012`, "\n"))] = true
	}
}

// open notes the files that a process has open for writing.
func (b *busy) open(pid int) error {
	dir := "/proc/" + strconv.Itoa(pid)
	d, err := os.Open(dir + "/fd")
	if memory.Gone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	names, err := d.Readdirnames(-1)
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	if err != nil && !memory.Gone(err) {
		return err
	}
	for _, name := range names {
		link := filepath.Join(dir, "fd", name)
		// What the kernel knows already: a file on a dead network volume must not
		// hold this up.
		var st unix.Statx_t
		if err := unix.Statx(unix.AT_FDCWD, link, unix.AT_STATX_DONT_SYNC, unix.STATX_TYPE|unix.STATX_INO, &st); err != nil {
			if memory.Gone(err) {
				continue // closed meanwhile
			}
			return err
		}
		if st.Mode&unix.S_IFMT != unix.S_IFREG {
			continue
		}
		info, err := os.ReadFile(filepath.Join(dir, "fdinfo", name))
		if memory.Gone(err) || err == nil && readOnly(string(info)) {
			continue
		}
		if err != nil {
			return err
		}
		b.inodes[st.Ino] = true
		if target, err := os.Readlink(link); err == nil {
			b.path(target)
		}
	}
	return nil
}

// readOnly reads /proc/PID/fdinfo. A file of which it does not tell may be written.
func readOnly(info string) bool {
	for line := range strings.Lines(info) {
		if v, ok := strings.CutPrefix(line, "flags:"); ok {
			flags, err := strconv.ParseUint(strings.TrimSpace(v), 8, 32)
			return err == nil && flags&unix.O_ACCMODE == unix.O_RDONLY
		}
	}
	return false
}
