// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package containerd

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"godwit.dev/godwit/node-agent/runtime/host"
)

// TestHandlerOnNode installs the runtime handler on a real node and removes it
// again, which restarts containerd twice. See package runtimetest for how to run
// it.
func TestHandlerOnNode(t *testing.T) {
	if os.Getenv("GODWIT_NODE_TEST") != "1" {
		t.Skip("NOT RUN: it restarts containerd; set GODWIT_NODE_TEST=1 on a node")
	}
	h, err := host.New(host.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	r, err := New(t.Context(), Options{Host: h})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	o := HandlerOptions{Name: "godwit-handler-test", Binary: "/opt/godwit-handler-test/wrapper",
		GuardBinary: "/opt/godwit-handler-test/guard", DropIn: "godwit-handler-test.toml"}
	t.Cleanup(func() { os.RemoveAll("/opt/godwit-handler-test") })
	wrapper := []byte("#!/bin/sh\nexec runc \"$@\"\n")
	// containerd goes on without a plugin that ends at once.
	guard := []byte("#!/bin/sh\n")
	for _, k := range []struct {
		name           string
		wrapper        []byte
		binary, config bool
	}{
		{"first", wrapper, true, true},
		{"again", wrapper, false, false},
		{"another wrapper", append(wrapper, '\n'), true, false},
	} {
		start := time.Now()
		got, err := r.InstallHandler(t.Context(), Binaries{Wrapper: k.wrapper, Guard: guard}, o)
		if err != nil {
			t.Fatalf("%s: %v", k.name, err)
		}
		if got.BinaryChanged != k.binary || got.ConfigChanged != k.config {
			t.Errorf("%s: %+v", k.name, got)
		}
		t.Logf("%s: %v", k.name, time.Since(start))
	}
	c, err := r.effectiveConfig(t.Context(), o.withDefaults())
	if err != nil {
		t.Fatal(err)
	}
	_, _, entries := c.runtimes()
	ours, runc := table(entries, o.Name, "options"), table(entries, "runc", "options")
	if ours["BinaryName"] != o.Binary || ours["SystemdCgroup"] != runc["SystemdCgroup"] {
		t.Errorf("the handler has %v, runc %v", ours, runc)
	}
	if link, err := os.Readlink(o.guardLink(c.nriPlugins())); err != nil || link != o.GuardBinary {
		t.Errorf("containerd's plugin is a link to %q, %v", link, err)
	}
	testBadConfig(t, h, r, o)
	for range 2 {
		done, err := r.UninstallHandler(t.Context(), o)
		if err != nil || !done.Removed || len(done.InUseBy) != 0 {
			t.Fatalf("%+v, %v", done, err)
		}
	}
	for _, name := range []string{"/etc/containerd/conf.d/" + o.DropIn, o.Binary, o.actionScript(), o.standIn(), o.GuardBinary, o.guardLink(c.nriPlugins())} {
		if _, err := h.ReadFile(name); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if v, err := r.Version(t.Context()); err != nil || v == "" {
		t.Errorf("containerd does not serve: %q, %v", v, err)
	}
}

// testBadConfig: a change that containerd does not take is taken back.
func testBadConfig(t *testing.T, h *host.Host, r *Runtime, o HandlerOptions) {
	t.Helper()
	before, err := h.ReadFile("/etc/containerd/conf.d/" + o.DropIn)
	if err != nil {
		t.Fatal(err)
	}
	bad := o
	bad.Unit = "no-such-unit-of-containerd"
	bad.Binary += "-2"
	_, err = r.InstallHandler(t.Context(), Binaries{Wrapper: []byte("#!/bin/sh\n"), Guard: []byte("#!/bin/sh\n")}, bad)
	if err == nil || !strings.Contains(err.Error(), "restart containerd") {
		t.Errorf("got %v", err)
	}
	if after, err := h.ReadFile("/etc/containerd/conf.d/" + o.DropIn); err != nil || string(after) != string(before) {
		t.Errorf("the drop-in is now %q, %v", after, err)
	}
}
