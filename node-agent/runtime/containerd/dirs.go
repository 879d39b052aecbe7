// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package containerd

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"godwit.dev/godwit/node-agent/runtime"
	"godwit.dev/godwit/node-agent/runtime/host"
)

// shmSource is the directory that is mounted at /dev/shm. A tmpfs of the
// container's own has none: its content travels in CRIU's images.
func shmSource(spec *specs.Spec) string {
	source := ""
	for _, m := range spec.Mounts {
		if path.Clean(m.Destination) == "/dev/shm" {
			source = ""
			if m.Type == "bind" {
				source = m.Source
			}
		}
	}
	return source
}

// cgroupDir is a process's cgroup v2 directory. /proc/PID/cgroup is relative to
// the reader's cgroup namespace, so it is read from within the node's.
func (r *Runtime) cgroupDir(pid int) (string, error) {
	var b []byte
	err := r.o.Host.Enter(func() (err error) {
		b, err = os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
		return err
	})
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return "", fmt.Errorf("%w: process %d", runtime.ErrNotFound, pid)
	}
	if err != nil {
		return "", err
	}
	dir, err := parseCgroup(b)
	if err != nil {
		return "", fmt.Errorf("cgroup of process %d: %w", pid, err)
	}
	return dir, nil
}

func parseCgroup(b []byte) (string, error) {
	s := bufio.NewScanner(bytes.NewReader(b))
	for s.Scan() {
		rel, ok := strings.CutPrefix(s.Text(), "0::")
		if !ok {
			continue
		}
		if !path.IsAbs(rel) || path.Clean(rel) != rel || rel == "/" {
			return "", fmt.Errorf("unexpected path %q", rel)
		}
		return path.Join(host.CgroupRoot, rel), nil
	}
	return "", errors.New("no entry of the unified hierarchy")
}

// upperDir is the writable layer of a container's root file system, "" when it
// is no overlay.
func (r *Runtime) upperDir(ctx context.Context, rec containers.Container, pid int) (string, error) {
	if rec.Snapshotter != "" && rec.SnapshotKey != "" {
		mounts, err := r.client.SnapshotService(rec.Snapshotter).Mounts(r.context(ctx), rec.SnapshotKey)
		if err == nil {
			return upperOf(mounts), nil
		}
		if !errdefs.IsNotFound(err) {
			return "", fmt.Errorf("mounts of %s: %w", rec.ID, err)
		}
	}
	return rootUpper(pid)
}

func upperOf(mounts []mount.Mount) string {
	for _, m := range mounts {
		if m.Type != "overlay" {
			continue
		}
		for _, o := range m.Options {
			if dir, ok := strings.CutPrefix(o, "upperdir="); ok {
				return dir
			}
		}
	}
	return ""
}

// rootUpper asks the kernel for the upper directory of a process's root. The
// kernel shows the path as the mount call gave it.
func rootUpper(pid int) (string, error) {
	f, err := os.Open("/proc/" + strconv.Itoa(pid) + "/mountinfo")
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%w: process %d", runtime.ErrNotFound, pid)
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	infos, err := mountinfo.GetMountsFromReader(f, mountinfo.SingleEntryFilter("/"))
	if err != nil {
		return "", fmt.Errorf("mounts of process %d: %w", pid, err)
	}
	for _, i := range infos {
		for o := range strings.SplitSeq(i.VFSOptions, ",") {
			if dir, ok := strings.CutPrefix(o, "upperdir="); ok {
				return dir, nil
			}
		}
	}
	return "", nil
}
