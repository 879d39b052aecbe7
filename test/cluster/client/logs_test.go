// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package client

import (
	"archive/tar"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

func TestLogScriptIsValidShell(t *testing.T) {
	out, err := exec.Command("sh", "-n", "-c", logScript()).CombinedOutput()
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func TestUnpackStaysInItsDirectory(t *testing.T) {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, name := range []string{"pods/a/0.log", "../escaped"} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: 2}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte("ok")); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "d")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unpack(&archive, dir); err == nil {
		t.Error("a path that leads out was accepted")
	}
	if _, err := os.Stat(filepath.Join(dir, "../escaped")); err == nil {
		t.Error("a file was written outside")
	}
	if got, err := os.ReadFile(filepath.Join(dir, "pods/a/0.log")); err != nil || string(got) != "ok" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestFilterJournal(t *testing.T) {
	dir := t.TempDir()
	journal := "Nov 24 n1 kubelet[3]: one\nNov 24 n1 containerd[4]: about kubelet\nNov 24 n1 kubelet[3]: two"
	if err := os.WriteFile(filepath.Join(dir, "journal.log"), []byte(journal), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := filterJournal(dir, "kubelet"); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(dir, "kubelet.log"))
	if want := "Nov 24 n1 kubelet[3]: one\nNov 24 n1 kubelet[3]: two"; err != nil || string(got) != want {
		t.Errorf("%q, %v", got, err)
	}
}
