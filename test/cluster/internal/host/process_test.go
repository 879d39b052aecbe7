// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package host

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestParseStatWithAnAwkwardName(t *testing.T) {
	s, err := parseStat("12 (a) b (c) S " + strings.Repeat("0 ", 16) + "9 0 4711 0 0")
	if want := (stat{'S', 9, 4711}); err != nil || s != want {
		t.Errorf("parseStat = %+v, %v, want %+v", s, err, want)
	}
	if _, err := parseStat("12 (a"); err == nil {
		t.Error("a short line was accepted")
	}
}

func TestProcessLivesAndStops(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	p, err := StartProcess(log, "", []string{"GREETING=hello"}, "sh", "-c", "trap '' TERM; echo $GREETING; while :; do sleep 1; done")
	if err != nil {
		t.Fatal(err)
	}
	if !p.Alive() {
		t.Fatal("not alive after the start")
	}
	// The shell has set its trap once the greeting is there.
	for deadline := time.Now().Add(10 * time.Second); LogTail(log, 1) != "hello"; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("log %q", LogTail(log, 1))
		}
	}
	other := Process{PID: p.PID, Started: p.Started + 1}
	if other.Alive() {
		t.Error("another start time, but taken for the same process")
	}
	if err := other.Signal(syscall.SIGKILL); err != nil || !p.Alive() {
		t.Errorf("a signal for another process hit this one (%v)", err)
	}
	if err := p.Stop(t.Context(), syscall.SIGTERM, 100*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if p.Alive() {
		t.Error("alive after Stop")
	}
	if err := p.Stop(t.Context(), syscall.SIGTERM, time.Millisecond); err != nil {
		t.Errorf("second Stop: %v", err)
	}
}

func TestLogTail(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, []byte(strings.Repeat("line\n", 10000)+"a\nb\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := LogTail(path, 2); got != "a\nb" {
		t.Errorf("LogTail = %q", got)
	}
}
