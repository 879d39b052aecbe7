// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package runtimetest_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/vishvananda/netns"

	"godwit.dev/godwit/internal/thread"
	"godwit.dev/godwit/node-agent/runtime/containerd"
	"godwit.dev/godwit/node-agent/runtime/host"
)

const (
	snapshotter = "overlayfs"
	baseImage   = "godwit-runtimetest-base"
)

// removeBase removes the layer that the containers of a run have shared.
func removeBase(t *testing.T) {
	cl, err := client.New(containerd.DefaultSocket, client.WithDefaultNamespace(containerd.Namespace))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx := namespaces.WithNamespace(context.Background(), containerd.Namespace)
	err = cl.SnapshotService(snapshotter).Remove(ctx, baseImage+"-"+buildID(t))
	if err != nil && !errdefs.IsNotFound(err) {
		t.Error(err)
	}
}

// snapshot prepares an overlay whose lower layer holds this very binary.
func (c *container) snapshot(t *testing.T, id string) []mount.Mount {
	t.Helper()
	s := c.client.SnapshotService(snapshotter)
	base := baseImage + "-" + buildID(t)
	if _, err := s.Stat(c.ctx, base); errdefs.IsNotFound(err) {
		key := base + "-" + id
		mounts, err := s.Prepare(c.ctx, key, "", keep())
		if err != nil {
			t.Fatal(err)
		}
		if err := mount.WithTempMount(c.ctx, mounts, fillBase); err != nil {
			t.Fatal(err)
		}
		if err := s.Commit(c.ctx, base, key, keep()); err != nil {
			t.Fatal(err)
		}
	} else if err != nil {
		t.Fatal(err)
	}
	mounts, err := s.Prepare(c.ctx, id, base, keep())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Remove(c.ctx, id); err != nil && !errdefs.IsNotFound(err) {
			t.Error(err)
		}
	})
	for _, o := range mounts[0].Options {
		if dir, ok := strings.CutPrefix(o, "upperdir="); ok {
			c.upper = dir
		}
	}
	if c.upper == "" {
		t.Fatalf("no overlay: %+v", mounts)
	}
	return mounts
}

func fillBase(root string) error {
	for _, dir := range []string{"proc", "sys", "dev", "data", "tmp"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(root, "data", "removed"), []byte("in the image"), 0o600); err != nil {
		return err
	}
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(root, "workload"), self, 0o755)
}

// sandbox records a sandbox container, without which no container is a pod's.
func (c *container) sandbox(t *testing.T, id string) string {
	t.Helper()
	id += "-sandbox"
	k, err := c.client.NewContainer(c.ctx, id,
		client.WithContainerLabels(map[string]string{"io.cri-containerd.kind": "sandbox"}),
		client.WithRuntime("io.containerd.runc.v2", nil),
		client.WithSpec(&specs.Spec{Version: specs.Version}),
	)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := k.Delete(c.ctx); err != nil {
			t.Error(err)
		}
	})
	return id
}

// podCgroup is where the container's cgroup is made: in one of its pod.
func podCgroup(t *testing.T, id string) string {
	t.Helper()
	dir := "/godwit-runtimetest/pod-" + id
	t.Cleanup(func() {
		if err := os.Remove(host.CgroupRoot + dir); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
	})
	return dir
}

func newSpec(id, cgroup, netPath, shm string) *specs.Spec {
	return &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: "rootfs"},
		Process: &specs.Process{
			Args: []string{"/workload"}, Cwd: "/",
			Env:             []string{workloadVariable + "=1", "GODEBUG=multipathtcp=0"},
			NoNewPrivileges: true,
			Capabilities:    &specs.LinuxCapabilities{},
		},
		Hostname: id,
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
			{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
			{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"}},
			{Destination: "/dev/shm", Type: "bind", Source: shm, Options: []string{"rbind", "rw"}},
		},
		Linux: &specs.Linux{
			CgroupsPath: cgroup + "/" + id,
			MaskedPaths: []string{"/proc/kcore", "/proc/keys", "/proc/timer_list"},
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.MountNamespace},
				{Type: specs.CgroupNamespace},
				{Type: specs.NetworkNamespace, Path: netPath},
			},
		},
	}
}

func shmDirectory(t *testing.T, id string) string {
	dir := filepath.Join(containerd.DefaultState, "godwit-runtimetest", id, "shm")
	mountTmpfs(t, dir)
	return dir
}

func networkNamespace(t *testing.T, id string) string {
	t.Helper()
	if err := thread.Do(func() error {
		ns, err := netns.NewNamed(id)
		if err != nil {
			return err
		}
		return ns.Close()
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netns.DeleteNamed(id); err != nil {
			t.Error(err)
		}
	})
	return "/run/netns/" + id
}

// keep holds a snapshot although nothing refers to it.
func keep() snapshots.Opt {
	return snapshots.WithLabels(map[string]string{"containerd.io/gc.root": time.Now().UTC().Format(time.RFC3339)})
}

func buildID(t *testing.T) string {
	t.Helper()
	fi, err := os.Stat("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d-%d", fi.Size(), fi.Sys().(*syscall.Stat_t).Mtim.Nano())
}
