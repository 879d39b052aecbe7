// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package nri

import (
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/adaptation"
	"github.com/containerd/nri/pkg/api"
	"github.com/go-logr/logr"

	"godwit.dev/godwit/node-agent/runtime"
	"godwit.dev/godwit/node-agent/runtime/runtimetest"
)

const patience = 20 * time.Second

// TestMain makes of the test's binary the plugin that a runtime starts: a link to
// it lies beside the directory of the records.
func TestMain(m *testing.M) {
	if os.Getenv(api.PluginNameEnvVar) == "" {
		os.Exit(m.Run())
	}
	if err := Launched(context.Background(), recordsBeside(filepath.Dir(os.Args[0])), logr.Discard()); err != nil {
		os.Exit(1)
	}
}

func recordsBeside(plugins string) string { return filepath.Join(filepath.Dir(plugins), "records") }

// fakeRuntime is the container runtime's own side of NRI on a socket, as
// containerd embeds it.
func fakeRuntime(t *testing.T, socket string) *adaptation.Adaptation {
	t.Helper()
	return runtimeWithPlugins(t, socket, t.TempDir())
}

// runtimeWithPlugins is a runtime that starts the plugins of a directory.
func runtimeWithPlugins(t *testing.T, socket, plugins string) *adaptation.Adaptation {
	t.Helper()
	a, err := adaptation.New("containerd", "v2.4.2",
		func(ctx context.Context, cb adaptation.SyncCB) error { _, err := cb(ctx, nil, nil); return err },
		func(context.Context, []*adaptation.ContainerUpdate) ([]*adaptation.ContainerUpdate, error) {
			return nil, nil
		},
		adaptation.WithSocketPath(socket), adaptation.WithPluginPath(plugins), adaptation.WithPluginConfigPath(t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
	return a
}

// mortalRuntime is a fakeRuntime whose end closes its connections, as the end of
// a process does; stopping one does not.
func mortalRuntime(t *testing.T, socket string) (a *adaptation.Adaptation, die func()) {
	t.Helper()
	behind := filepath.Join(t.TempDir(), "behind.sock")
	a = fakeRuntime(t, behind)
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	conns := make(chan net.Conn, 16)
	go func() {
		for {
			front, err := l.Accept()
			if err != nil {
				close(conns)
				return
			}
			back, err := net.Dial("unix", behind)
			if err != nil {
				_ = front.Close()
				continue
			}
			go func() { _, _ = io.Copy(front, back) }()
			go func() { _, _ = io.Copy(back, front) }()
			conns <- front
			conns <- back
		}
	}()
	return a, func() {
		_ = l.Close()
		for c := range conns {
			_ = c.Close()
		}
		a.Stop()
	}
}

func frozen(podUID string) runtime.Guarded {
	return runtime.Guarded{Namespace: "default", Pod: "pod-" + podUID, PodUID: podUID, Why: "it is frozen"}
}

func create(a *adaptation.Adaptation) func(podUID string) error {
	return func(podUID string) error {
		defer a.BlockPluginSync().Unblock()
		_, err := a.CreateContainer(context.Background(), &api.CreateContainerRequest{
			Pod:       &api.PodSandbox{Id: "sandbox-" + podUID, Uid: podUID, Name: "pod-" + podUID, Namespace: "default"},
			Container: &api.Container{Id: "container-" + podUID, PodSandboxId: "sandbox-" + podUID, Name: "main"},
		})
		return err
	}
}

// start runs a Guard until the test ends, and checks that it ends then.
func start(t *testing.T, socket string) *Guard {
	t.Helper()
	g := New(Options{Socket: socket, Records: filepath.Join(t.TempDir(), "records"), FirstRetry: 10 * time.Millisecond, InitPID: os.Getpid()})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Start: %v", err)
			}
		case <-time.After(patience):
			t.Error("the guard does not end with its context")
		}
		if g.Active() {
			t.Error("active after its end")
		}
	})
	return g
}

func await(t *testing.T, g *Guard, active bool) {
	t.Helper()
	limit := time.After(patience)
	for g.Active() != active {
		select {
		case <-g.Changed():
		case <-limit:
			t.Fatalf("active %t, waited for %t", g.Active(), active)
		}
	}
}

func TestGuardRefusesThroughARuntime(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "nri.sock")
	a := fakeRuntime(t, socket)
	defer a.Stop()
	g := start(t, socket)
	await(t, g, true)
	runtimetest.Guard(t, g, create(a))
}

// A runtime that restarts is connected to again, and what was guarded before
// still is. In between, and before, containers are created unasked.
func TestGuardOutlivesTheRuntime(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "nri.sock")
	g := start(t, socket)
	if err := g.Guard(frozen("one")); err != nil {
		t.Fatal(err)
	}
	if g.Active() {
		t.Fatal("active without a runtime")
	}
	for range 2 {
		a, die := mortalRuntime(t, socket)
		await(t, g, true)
		if err := create(a)("one"); err == nil {
			t.Error("a guarded pod's container was created")
		}
		if err := create(a)("two"); err != nil {
			t.Errorf("another pod's container was refused: %v", err)
		}
		die()
		await(t, g, false)
	}
}

// What the runtime starts itself refuses without an agent, and from the first
// create on: a node that has lost its power comes back like this.
func TestLaunchedByTheRuntime(t *testing.T) {
	dir := t.TempDir()
	plugins := filepath.Join(dir, "plugins")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(plugins, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, filepath.Join(plugins, "00-godwit-guard")); err != nil {
		t.Fatal(err)
	}
	// An agent that was there before, and one that comes: both only write.
	agent := New(Options{Socket: filepath.Join(dir, "none.sock"), Records: recordsBeside(plugins)})
	if err := agent.Guard(frozen("before")); err != nil {
		t.Fatal(err)
	}
	a := runtimeWithPlugins(t, filepath.Join(dir, "nri.sock"), plugins)
	defer a.Stop()
	if err := create(a)("before"); err == nil {
		t.Error("a container was created of a pod that had been guarded before the runtime started")
	}
	if err := agent.Release("before"); err != nil {
		t.Fatal(err)
	}
	runtimetest.Guard(t, agent, create(a))
}

// A record that is there counts, whatever it holds; a UID is no path.
func TestRecords(t *testing.T) {
	r := records{filepath.Join(t.TempDir(), "records")}
	p := plugin{records: r, log: logr.Discard()}
	ask := func(uid string) error {
		_, _, err := p.CreateContainer(t.Context(), &api.PodSandbox{Uid: uid}, &api.Container{})
		return err
	}
	if err := r.put(frozen("one")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(r.path("cut"), []byte(`{"pod":`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(r.dir, ".one.json.123"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	all, err := r.all()
	if len(all) != 1 || all[0] != frozen("one") || err == nil {
		t.Errorf("%+v, %v", all, err)
	}
	for uid, refused := range map[string]bool{"one": true, "cut": true, "two": false, "": false, "../records/one": false} {
		if err := ask(uid); (err != nil) != refused {
			t.Errorf("pod %q: %v", uid, err)
		}
	}
	for _, uid := range []string{"", "a/b", "..", ".hidden"} {
		if err := r.put(frozen(uid)); err == nil {
			t.Errorf("a record of pod %q was written", uid)
		}
	}
}
