// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"godwit.dev/godwit/test/cluster/client"
	"godwit.dev/godwit/test/cluster/internal/cache"
	"godwit.dev/godwit/test/cluster/internal/controlplane"
	"godwit.dev/godwit/test/cluster/internal/host"
	"godwit.dev/godwit/test/cluster/internal/progress"
)

func newCluster(t *testing.T) *Cluster {
	t.Helper()
	store, err := cache.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	c, err := New("unit", store, progress.New(t.Output()))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(c.Dir(), "logs"), 0o755); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestNamesAreShort(t *testing.T) {
	for _, name := range []string{"", "-a", "a-", "A", "a/b", strings.Repeat("a", 21)} {
		if _, err := New(name, nil, nil); err == nil {
			t.Errorf("%q was accepted", name)
		}
	}
}

func TestRunningKnowsWhatIsMissing(t *testing.T) {
	c := newCluster(t)
	if err := c.Running(); !errors.Is(err, ErrNotRunning) {
		t.Errorf("no state: %v", err)
	}
	// This process stands for all parts.
	self, err := host.FindProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	s := &state{Created: time.Now(), Processes: map[string]*host.Process{}}
	for _, part := range controlplane.Parts(controlplane.Paths{}) {
		s.Processes[part.Name] = self
	}
	if err := c.saveState(s); err != nil {
		t.Fatal(err)
	}
	if err := c.Running(); !errors.Is(err, ErrNotRunning) {
		t.Errorf("an incomplete start: %v", err)
	}
	s.Ready = true
	if err := c.saveState(s); err != nil {
		t.Fatal(err)
	}
	if err := c.Running(); err != nil {
		t.Errorf("a complete start: %v", err)
	}
	lines, err := c.Status()
	if err != nil || !slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(l, "vm-n2 ") && strings.HasSuffix(l, "off") }) {
		t.Errorf("status %q, %v", lines, err)
	}
	s.Processes["etcd"] = &host.Process{PID: self.PID, Started: self.Started + 1}
	if err := c.saveState(s); err != nil {
		t.Fatal(err)
	}
	if err := c.Running(); !errors.Is(err, ErrNotRunning) || !strings.Contains(err.Error(), "etcd") {
		t.Errorf("without etcd: %v", err)
	}
}

func TestEnvironmentReplacesAndClears(t *testing.T) {
	c := newCluster(t)
	if err := c.saveState(&state{Artifacts: Artifacts{Kubernetes: "/k"}}); err != nil {
		t.Fatal(err)
	}
	env, err := c.Environment([]string{"PATH=/bin", "KUBECONFIG=/other", "HTTP_PROXY=x", "A=b=c"}, "/tool")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"A=b=c", client.EnvName + "=unit", client.EnvDir + "=" + c.Dir(), client.EnvTool + "=/tool",
		"KUBECONFIG=" + c.Kubeconfig(), "PATH=/k:/bin",
	}
	if !slices.Equal(env, want) {
		t.Errorf("got %q, want %q", env, want)
	}
}

func TestAwaitShowsTheLogOfAPartThatEnds(t *testing.T) {
	c := newCluster(t)
	p, err := host.StartProcess(c.logFile("part"), "", nil, "sh", "-c", "sleep 0.1; echo the reason")
	if err != nil {
		t.Fatal(err)
	}
	err = c.await(t.Context(), "part", p, time.Minute, func(context.Context) error { return errors.New("not yet") })
	var part *PartError
	if !errors.As(err, &part) || !strings.Contains(err.Error(), "the reason") {
		t.Errorf("error %v", err)
	}
}

func TestAwaitIsBounded(t *testing.T) {
	c := newCluster(t)
	p, err := host.FindProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	err = c.await(t.Context(), "part", p, 50*time.Millisecond, func(context.Context) error { return errors.New("not yet") })
	if err == nil || !strings.Contains(err.Error(), "not yet") {
		t.Errorf("error %v", err)
	}
	if err := c.await(t.Context(), "part", p, time.Minute, func(context.Context) error { return nil }); err != nil {
		t.Errorf("a condition that holds: %v", err)
	}
}
