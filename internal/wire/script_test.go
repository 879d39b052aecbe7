// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package wire_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"godwit.dev/godwit/internal/wire"
)

// call runs the action script as CRIU does.
func call(t *testing.T, action string, env ...string) *exec.Cmd {
	t.Helper()
	script := filepath.Join(t.TempDir(), wire.ActionScriptName)
	if err := os.WriteFile(script, []byte(wire.ActionScript), 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), script)
	cmd.Env = append([]string{"PATH=/usr/bin:/bin", "CRTOOLS_SCRIPT_ACTION=" + action}, env...)
	return cmd
}

// Every step that is not ours costs a shell and nothing else.
func TestActionScriptStartsTheWrapperAtTwoSteps(t *testing.T) {
	wrapper := filepath.Join(t.TempDir(), "wrapper")
	if err := os.WriteFile(wrapper, []byte("#!/bin/sh\necho \"called at $CRTOOLS_SCRIPT_ACTION\"\nexit 3\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, action := range []string{"pre-restore", "setup-namespaces", "post-setup-namespaces", "network-unlock", "post-resume", "post-dump", "pre-dump"} {
		if out, err := call(t, action, wire.EnvWrapper+"="+wrapper).CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%s: %v: %s", action, err, out)
		}
	}
	for _, action := range []string{"post-restore", "pre-resume"} {
		cmd := call(t, action, wire.EnvWrapper+"="+wrapper)
		out, _ := cmd.CombinedOutput()
		if string(out) != "called at "+action+"\n" || cmd.ProcessState.ExitCode() != 3 {
			t.Errorf("%s: exit status %d: %s", action, cmd.ProcessState.ExitCode(), out)
		}
		if out, err := call(t, action).CombinedOutput(); err != nil {
			t.Errorf("%s without a wrapper: %v: %s", action, err, out)
		}
	}
}

func TestActionScriptHoldsADumpUntilItMayGo(t *testing.T) {
	for said, ok := range map[string]bool{"go\n": true, "": false, "no\n": false} {
		readyOut, readyIn, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		goOut, goIn, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		path := func(f *os.File) string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd()) }
		cmd := call(t, "pre-dump", wire.EnvDumpReady+"="+path(readyIn), wire.EnvDumpGo+"="+path(goOut))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		line := make([]byte, 16)
		n, err := readyOut.Read(line)
		if err != nil || strings.TrimSpace(string(line[:n])) != "ready" {
			t.Fatalf("%q, %v", line[:n], err)
		}
		if _, err := goIn.WriteString(said); err != nil {
			t.Fatal(err)
		}
		goIn.Close() // as when the agent ends
		if err := cmd.Wait(); (err == nil) != ok {
			t.Errorf("told %q: %v", said, err)
		}
		for _, f := range []*os.File{readyOut, readyIn, goOut} {
			f.Close()
		}
	}
}
