// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build failpoints

package failpoint

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
)

func newPoints(t *testing.T, name, terms string) *points {
	t.Helper()
	p := &points{dir: t.TempDir(), terms: map[string]string{}}
	if err := os.WriteFile(filepath.Join(p.dir, name), []byte(terms), 0o644); err != nil {
		t.Fatal(err)
	}
	return p
}

// awaitFile returns when the file is there.
func awaitFile(t *testing.T, path string) {
	t.Helper()
	w, err := fsnotify.NewWatcher()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := w.Add(filepath.Dir(path)); err != nil {
		t.Fatal(err)
	}
	limit := time.After(10 * time.Second)
	for {
		if _, err := os.Stat(path); err == nil {
			return
		}
		select {
		case <-w.Events:
		case <-limit:
			t.Fatalf("no %s", path)
		}
	}
}

func TestHoldsUntilReleased(t *testing.T) {
	p := newPoints(t, "step", `return("hold")`)
	passed := make(chan struct{})
	go func() { p.at("step"); close(passed) }()
	held := filepath.Join(p.dir, "step.held")
	awaitFile(t, held)
	pid, err := os.ReadFile(filepath.Join(p.dir, "step.pid"))
	if err != nil || strings.TrimSpace(string(pid)) != strconv.Itoa(os.Getpid()) {
		t.Errorf("pid %q, %v", pid, err)
	}
	p.at("step") // somebody else, who finds nothing
	select {
	case <-passed:
		t.Fatal("did not hold")
	default:
	}
	if err := os.Remove(held); err != nil {
		t.Fatal(err)
	}
	<-passed
}

func TestHoldsTheSecondTime(t *testing.T) {
	p := newPoints(t, "again", `1*off->return("hold")`)
	p.at("again")
	if _, err := os.Stat(filepath.Join(p.dir, "again")); err != nil {
		t.Fatal("held the first time")
	}
	passed := make(chan struct{})
	go func() { p.at("again"); close(passed) }()
	held := filepath.Join(p.dir, "again.held")
	awaitFile(t, held)
	if err := os.Remove(held); err != nil {
		t.Fatal(err)
	}
	<-passed
}

func TestNothingArmedNothingHeld(t *testing.T) {
	p := newPoints(t, "other", `return("hold")`)
	p.at("step")
	p = newPoints(t, "bad", "no such action")
	p.at("bad")
}
