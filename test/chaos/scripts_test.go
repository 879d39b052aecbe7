// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// What is quoted for a node's shell must hold no quote of that kind.
func TestScriptsCanBeQuoted(t *testing.T) {
	for name, script := range map[string]string{
		"watch": watchScript, "held": fmt.Sprintf(heldScript, 10, "/x"),
		"criu": criu.script("kill -9 $pid"), "runc": runcRestore.script("kill -9 $pid"),
	} {
		if strings.Contains(script, "'") {
			t.Errorf("%s contains a quote", name)
		}
		if out, err := exec.Command("bash", "-n", "-c", script).CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", name, err, out)
		}
	}
	if out, err := exec.Command("bash", "-n", "-c", leftoverScript).CombinedOutput(); err != nil {
		t.Errorf("leftovers: %v: %s", err, out)
	}
}

func TestHeldScriptWaits(t *testing.T) {
	point := filepath.Join(t.TempDir(), "step")
	cmd := exec.CommandContext(t.Context(), "bash", "-c", fmt.Sprintf(heldScript, 600, point))
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{".pid": "42", ".held": ""} {
		if err := os.WriteFile(point+name+".new", []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{".pid", ".held"} {
		if err := os.Rename(point+name+".new", point+name); err != nil {
			t.Fatal(err)
		}
	}
	if err := cmd.Wait(); err != nil || out.String() != "42\n" {
		t.Errorf("%q, %v", out.String(), err)
	}
	if err := exec.Command("bash", "-c", fmt.Sprintf(heldScript, 2, point+"-other")).Run(); err == nil {
		t.Error("a point that is not reached was")
	}
}

// The script acts on the program that it looks for, and on no other.
func TestProgramScriptFindsTheProgram(t *testing.T) {
	// A stand-in whose name and arguments are like those of runc.
	dir := t.TempDir()
	runc := filepath.Join(dir, "runc")
	if err := os.WriteFile(runc, []byte("#!/bin/bash\nexec 9<> <(:)\nread -r -t 60 -u 9\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	stand := exec.CommandContext(ctx, runc, "--root", "x", "restore", "id")
	if err := stand.Start(); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(ctx, "bash", "-c", runcRestore.script("echo found $pid; kill -9 $pid")).Output()
	if err != nil || string(out) != fmt.Sprintf("waiting\nfound %d\nseen\n", stand.Process.Pid) {
		t.Errorf("%q, %v", out, err)
	}
	if err := stand.Wait(); err == nil || ctx.Err() != nil {
		t.Errorf("the program was not ended: %v", err)
	}
}
