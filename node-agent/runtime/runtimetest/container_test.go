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
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"godwit.dev/godwit/node-agent/runtime"
	"godwit.dev/godwit/node-agent/runtime/containerd"
	"godwit.dev/godwit/node-agent/runtime/host"
	"godwit.dev/godwit/node-agent/runtime/runtimetest"
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
	c.spec = newSpec(id, podCgroup(t, id), networkNamespace(t, id), shmDirectory(t, id))
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

func (c *container) Info() runtime.Container { return c.info }

func (c *container) ThawOwn(t *testing.T) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(c.info.CgroupDir, "cgroup.freeze"), []byte("0"), 0); err != nil {
		t.Fatal(err)
	}
}

// read reads the program's status from outside.
func (c *container) read() (status, error) {
	b, err := os.ReadFile(filepath.Join(c.upper, statusName))
	if err != nil {
		return status{}, err
	}
	return decode(b)
}

// awaitBirth waits for the program, which tells of itself in a file only.
func (c *container) awaitBirth(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) { // the file can only be looked at
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
	// Its answer is a number in that file.
	for deadline := time.Now().Add(time.Minute); c.status(t).Commands == before; time.Sleep(time.Millisecond) { // the file can only be looked at
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
func (c *container) Restore(t *testing.T, imageDir string, filesDirs ...string) runtimetest.Workload {
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
	r.spec = newSpec(id, podCgroup(t, id), networkNamespace(t, id), shmDirectory(t, id))
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
	if err := runtimetest.Unpack(t.Context(), c.node.Files, filesDirs, bundle); err != nil {
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
