// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"godwit.dev/godwit/internal/wire"
)

func writeFiles(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	must(t, os.MkdirAll(dir, 0o755))
	for name, text := range files {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
}

func TestLimitsOf(t *testing.T) {
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{"cpu.max": "max 100000\n", "memory.max": "4096\n", "memory.high": "max\n", "pids.max": "7\n"})
	l, err := limitsOf(dir)
	must(t, err)
	path := filepath.Join(dir, "memory.max")
	if want := (cgroupLimits{path: "4096"}); !maps.Equal(l, want) {
		t.Errorf("got %v, want %v", l, want)
	}
	must(t, l.lift())
	if b, err := os.ReadFile(path); string(b) != "max" || err != nil {
		t.Errorf("lifted: %q, %v", b, err)
	}
	must(t, l.impose())
	if b, err := os.ReadFile(path); string(b) != "4096" || err != nil {
		t.Errorf("put back: %q, %v", b, err)
	}
	if l, err := limitsOf(filepath.Join(dir, "gone")); len(l) != 0 || err != nil {
		t.Errorf("of no cgroup: %v, %v", l, err)
	}
}

// A restore is not slowed down by what the container and its pod are limited to, and
// they are limited to it afterwards.
func TestLimitsAreLiftedForTheRestore(t *testing.T) {
	for name, replies := range map[string]func(r *rig) []wire.Reply{
		"prepared": func(r *rig) []wire.Reply {
			return []wire.Reply{{Verdict: wire.Park}, r.prepare(), r.order(10 * time.Second)}
		},
		"with the order": func(r *rig) []wire.Reply { return []wire.Reply{r.order(10 * time.Second)} },
		"prepared in vain": func(r *rig) []wire.Reply {
			return []wire.Reply{{Verdict: wire.Park}, r.prepare(), {Verdict: wire.Fail, Reason: "not now"}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, "ok")
			pod, container := r.w.cgroupRoot, filepath.Join(r.w.cgroupRoot, "ctr")
			t.Setenv("LIMITS", pod)
			writeFiles(t, pod, map[string]string{"cpu.max": "50000 100000\n", "memory.max": "max\n"})
			_, _ = r.agent(replies(r)...)
			err := r.w.Exec(r.create())
			want := map[string]string{filepath.Join(pod, "cpu.max"): "50000 100000", filepath.Join(pod, "memory.max"): "max"}
			if name != "prepared in vain" {
				must(t, err)
				if !strings.Contains(r.calls(), "limits: maxmaxmax") {
					t.Errorf("restored with these limits: %s", r.calls())
				}
				maps.Copy(want, map[string]string{filepath.Join(container, "cpu.max"): "20000 100000", filepath.Join(container, "memory.max"): "4096", filepath.Join(container, "memory.high"): "max"})
			} else if err == nil {
				t.Error("it was restored")
			}
			for path, value := range want {
				if b, err := os.ReadFile(path); strings.TrimSpace(string(b)) != value || err != nil {
					t.Errorf("%s is %q, %v; it was %q", path, b, err, value)
				}
			}
		})
	}
}
