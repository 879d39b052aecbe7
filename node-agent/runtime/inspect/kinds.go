// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package inspect

import (
	"fmt"
	"os"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"
)

// dumpable are the kinds of files without a file system that CRIU dumps (criu/files.c,
// dump_one_file).
var dumpable = []string{"[eventfd]", "[eventpoll]", "inotify", "[fanotify]", "[signalfd]", "[timerfd]", "[pidfd]"}

var namespaceFile = regexp.MustCompile(`^(cgroup|ipc|mnt|net|pid|time|user|uts):\[\d+\]$`)

// ownNamespace says whether a file of a namespace is one that the process is in.
func ownNamespace(pid int, target string) bool {
	kind, _, _ := strings.Cut(target, ":")
	own, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
	return err == nil && own == target
}

// mountIDs are the numbers of what is mounted where the process is.
func mountIDs(pid int) (map[string]bool, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		return nil, err
	}
	ids := map[string]bool{}
	for line := range strings.Lines(string(b)) {
		id, _, _ := strings.Cut(line, " ")
		ids[id] = true
	}
	return ids, nil
}

// mounted notes a file of a file system that is not mounted in the container: one that
// was brought from outside, or whose mount is gone. Files of the kernel's own, shared
// memory for instance, are mounted nowhere and are no such thing.
func (g *gatherer) mounted(pid, fd int, target string, mounts map[string]bool) error {
	if kernelsOwn(target) {
		return nil
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%d", pid, fd))
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(b)) {
		if id, ok := strings.CutPrefix(line, "mnt_id:"); ok && !mounts[strings.TrimSpace(id)] {
			g.in.ForeignFiles = append(g.in.ForeignFiles, target)
		}
	}
	return nil
}

// kernelsOwn are the names that the kernel gives to files which never had one.
func kernelsOwn(target string) bool {
	for _, prefix := range []string{"/memfd:", "/SYSV", "/dev/zero", "/[aio]", "/anon_hugepage", "/secretmem"} {
		if strings.HasPrefix(target, prefix) && strings.HasSuffix(target, deletedSuffix) {
			return true
		}
	}
	return false
}

// deletedSuffix is what the kernel adds to the name of a file that has none any more.
const deletedSuffix = " (deleted)"

// ghostLimit is the largest file without a name that goes into the images, in bytes.
// The default of criu.Options is the same.
const ghostLimit = 64 << 20

// sillyName is what NFS gives to a file that is removed while it is open.
var sillyName = regexp.MustCompile(`/\.nfs[0-9a-f]{16,24}$`)

// deleted notes a file without a name that cannot be put into the images.
func (g *gatherer) deleted(target string, st *unix.Statx_t) {
	if kernelsOwn(target) {
		return
	}
	name, gone := strings.CutSuffix(target, deletedSuffix)
	const sector = 512
	switch size := int64(st.Blocks) * sector; {
	case sillyName.MatchString(target):
		g.in.DeletedFiles = append(g.in.DeletedFiles, name+" (removed on NFS)")
	case !gone:
	case st.Nlink > 0:
		g.in.DeletedFiles = append(g.in.DeletedFiles, name+" (it has another name elsewhere)")
	case size > ghostLimit:
		g.in.DeletedFiles = append(g.in.DeletedFiles, fmt.Sprintf("%s (%d MiB, more than %d)", name, size>>20, ghostLimit>>20))
	}
}
