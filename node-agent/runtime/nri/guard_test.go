// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package nri

import (
	"context"
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/adaptation"
	"github.com/containerd/nri/pkg/api"

	"godwit.dev/godwit/node-agent/runtime/runtimetest"
)

const patience = 20 * time.Second

// fakeRuntime is the container runtime's own side of NRI on a socket, as
// containerd embeds it.
func fakeRuntime(t *testing.T, socket string) *adaptation.Adaptation {
	t.Helper()
	a, err := adaptation.New("containerd", "v2.4.2",
		func(ctx context.Context, cb adaptation.SyncCB) error { _, err := cb(ctx, nil, nil); return err },
		func(context.Context, []*adaptation.ContainerUpdate) ([]*adaptation.ContainerUpdate, error) {
			return nil, nil
		},
		adaptation.WithSocketPath(socket), adaptation.WithPluginPath(t.TempDir()), adaptation.WithPluginConfigPath(t.TempDir()))
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
	g := New(Options{Socket: socket, FirstRetry: 10 * time.Millisecond})
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
	g.Guard("one", "it is frozen")
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
