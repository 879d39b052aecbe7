// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package runtimetest_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"godwit.dev/godwit/node-agent/runtime"
	"godwit.dev/godwit/node-agent/runtime/containerd"
	"godwit.dev/godwit/node-agent/runtime/host"
	"godwit.dev/godwit/node-agent/runtime/runtimetest"
)

const (
	snapshotter = "overlayfs"
	baseImage   = "godwit-runtimetest-base"
)

// container is a Workload on a real node.
type container struct {
	node   runtimetest.Node
	host   *host.Host
	client *client.Client
	ctx    context.Context
	info   runtime.Container
	spec   *specs.Spec
	upper  string
	birth  uint64
}

// startReal starts a container as kubelet's are: by containerd in the namespace
// k8s.io, with the labels of its CRI service, an overlay root, a network
// namespace that was made before, and a /dev/shm from outside.
func startReal(t *testing.T, n runtimetest.Node, h *host.Host) *container {
	t.Helper()
	cl, err := client.New(containerd.DefaultSocket, client.WithDefaultNamespace(containerd.Namespace))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cl.Close() })
	id := fmt.Sprintf("godwit%d", time.Now().UnixNano())
	c := &container{node: n, host: h, client: cl, ctx: namespaces.WithNamespace(context.Background(), containerd.Namespace)}
	mounts := c.snapshot(t, id)
	c.spec = newSpec(id, networkNamespace(t, id), shmDirectory(t, id))
	labels := map[string]string{
		"io.cri-containerd.kind":       "container",
		"io.kubernetes.pod.uid":        "pod-" + id,
		"io.kubernetes.container.name": "app",
	}
	sandbox := c.sandbox(t, id)
	c.spec.Annotations = map[string]string{"io.kubernetes.cri.sandbox-id": sandbox}
	k, err := cl.NewContainer(c.ctx, id,
		client.WithContainerLabels(labels),
		client.WithSnapshotter(snapshotter), client.WithSnapshot(id),
		client.WithImageName("registry.invalid/runtimetest:1"),
		client.WithRuntime("io.containerd.runc.v2", nil),
		client.WithSpec(c.spec),
	)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := k.Delete(c.ctx); err != nil {
			t.Error(err)
		}
	})
	task, err := k.NewTask(c.ctx, cio.NullIO, client.WithRootFS(mounts))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { deleteTask(t, c, id, task) })
	if err := task.Start(c.ctx); err != nil {
		t.Fatal(err)
	}
	if c.info, err = n.Finder.Container(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	c.awaitBirth(t)
	return c
}

func deleteTask(t *testing.T, c *container, id string, task client.Task) {
	if err := c.node.Killer.Kill(c.ctx, c.info); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(c.ctx, time.Minute)
	defer cancel()
	if _, err := task.Delete(ctx, client.WithProcessKill); err != nil && !errdefs.IsNotFound(err) {
		t.Errorf("delete the task of %s: %v", id, err)
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

func newSpec(id, netPath, shm string) *specs.Spec {
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
			CgroupsPath: "/godwit-runtimetest/" + id,
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
	made := make(chan error, 1)
	go func() {
		goruntime.LockOSThread() // the thread is in the new namespace and ends with it
		ns, err := netns.NewNamed(id)
		made <- err
		if err == nil {
			ns.Close()
		}
	}()
	if err := <-made; err != nil {
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

func (c *container) Info() runtime.Container { return c.info }

// read reads the program's status from outside.
func (c *container) read() (status, error) {
	b, err := os.ReadFile(filepath.Join(c.upper, statusName))
	if err != nil {
		return status{}, err
	}
	return decode(b)
}

func (c *container) awaitBirth(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		s, err := c.read()
		if err == nil && s.Count > 0 {
			c.birth = s.Birth
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the program does not start: %+v, %v", s, err)
		}
	}
}

func (c *container) status(t *testing.T) status {
	t.Helper()
	s, err := c.read()
	if err != nil {
		t.Fatal(err)
	}
	if s.Birth != c.birth {
		t.Fatalf("another process runs: born %d, not %d", s.Birth, c.birth)
	}
	if s.Broken != 0 {
		t.Fatalf("the program found its memory changed in %d places", s.Broken)
	}
	return s
}

func (c *container) Progress(t *testing.T) uint64 { return c.status(t).Count }

func (c *container) Dirty(t *testing.T, bytes int64) {
	t.Helper()
	before := c.status(t).Commands
	c.WriteFile(t, commandName, string(binary.LittleEndian.AppendUint64(nil, uint64(bytes))))
	if err := c.node.Killer.Signal(t.Context(), c.info, int(unix.SIGUSR1)); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); c.status(t).Commands == before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the program does not follow a command")
		}
	}
}

func (c *container) root() string { return fmt.Sprintf("/proc/%d/root", c.info.PID) }

func (c *container) WriteFile(t *testing.T, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(c.root(), name), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(c.root(), "data", "removed")); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
}

func (c *container) ReadFile(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(c.root(), name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Restore does what the wrapper does, with a bundle made by hand.
func (c *container) Restore(t *testing.T, imageDir, filesDir string) runtimetest.Workload {
	t.Helper()
	id := c.info.ID + "-restored"
	r := &container{node: c.node, host: c.host, client: c.client, ctx: c.ctx, birth: c.birth}
	mounts := r.snapshot(t, id)
	bundle := directory(t, "/run/godwit-test")
	rootfs := filepath.Join(bundle, "rootfs")
	if err := os.Mkdir(rootfs, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := mount.All(mounts, rootfs); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := mount.UnmountAll(rootfs, 0); err != nil {
			t.Error(err)
		}
	})
	r.spec = newSpec(id, networkNamespace(t, id), shmDirectory(t, id))
	conf, err := json.Marshal(r.spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), conf, 0o600); err != nil {
		t.Fatal(err)
	}
	r.info = runtime.Container{
		ID: id, Bundle: bundle, CgroupDir: host.CgroupRoot + r.spec.Linux.CgroupsPath, UpperDir: r.upper,
	}
	t.Cleanup(func() {
		if err := r.node.Killer.Discard(c.ctx, id, bundle); err != nil {
			t.Error(err)
		}
	})
	if err := c.node.Files.Unpack(t.Context(), filesDir, bundle); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(rootfs, "data", "removed")); !os.IsNotExist(err) {
		t.Errorf("a file that the source removed is there (%v)", err)
	}
	r.restore(t, imageDir)
	shm, err := os.ReadFile(filepath.Join(r.root(), "dev", "shm", shmName))
	if err != nil {
		t.Fatal(err)
	}
	if s, err := decode(shm); err != nil || s.Birth != c.birth {
		t.Errorf("/dev/shm holds %+v, %v", s, err)
	}
	return r
}

func (c *container) restore(t *testing.T, imageDir string) {
	t.Helper()
	work := directory(t, "/run/godwit-test")
	pidFile := filepath.Join(work, "pid")
	start := time.Now()
	_, err := c.host.Run(t.Context(), host.Command{Args: []string{
		"runc", "--root", "/run/containerd/runc/k8s.io", "restore", "--detach", "--no-subreaper",
		"--bundle", c.info.Bundle, "--image-path", imageDir, "--work-path", work, "--pid-file", pidFile,
		"--tcp-established", "--file-locks", c.info.ID,
	}})
	if err != nil {
		log, _ := os.ReadFile(filepath.Join(work, "restore.log"))
		t.Fatalf("runc restore: %v\n%s", err, strings.Join(host.LogErrors(log, 10), "\n"))
	}
	t.Logf("restored in %v", time.Since(start))
	b, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscan(string(b), &c.info.PID); err != nil {
		t.Fatal(err)
	}
}
