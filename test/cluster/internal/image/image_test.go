// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"godwit.dev/godwit/test/cluster/internal/topology"
)

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestInitRDIsReadByCPIO(t *testing.T) {
	cpio, err := exec.LookPath("cpio")
	if err != nil {
		t.Skip("cpio is not installed")
	}
	dir := t.TempDir()
	write(t, filepath.Join(dir, "init"), "program")
	write(t, filepath.Join(dir, "tree/usr/lib/modules/6.12/", initModules[0]), "module")
	path := filepath.Join(dir, "initrd")
	if err := writeInitRD(path, filepath.Join(dir, "init"), filepath.Join(dir, "tree"), "6.12"); err != nil {
		t.Fatal(err)
	}
	archive, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(cpio, "-i", "--quiet", "-d")
	cmd.Dir = t.TempDir()
	cmd.Stdin = bytes.NewReader(archive)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for name, want := range map[string]string{"init": "program", "modules/00-virtio_blk.ko": "module"} {
		if got, err := os.ReadFile(filepath.Join(cmd.Dir, name)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

func TestPauseArchiveIsTheSandboxImage(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "pause"), "program")
	path := filepath.Join(dir, "out", "pause.tar")
	if err := writePauseArchive(path, filepath.Join(dir, "pause")); err != nil {
		t.Fatal(err)
	}
	manifest, err := tarball.LoadManifest(func() (io.ReadCloser, error) { return os.Open(path) })
	if err != nil {
		t.Fatal(err)
	}
	if len(manifest) != 1 || len(manifest[0].RepoTags) != 1 || manifest[0].RepoTags[0] != topology.PauseImage {
		t.Errorf("manifest %+v", manifest)
	}
	config, err := files.ReadFile("files/etc/containerd/config.toml")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(config), "sandbox = '"+topology.PauseImage+"'") {
		t.Errorf("containerd is told of another sandbox image:\n%s", config)
	}
}

func TestOwnUnitsAreInTheImage(t *testing.T) {
	for _, unit := range enabled {
		content, err := files.ReadFile("files/etc/systemd/system/" + unit)
		if err != nil {
			t.Error(err)
		} else if !strings.Contains(string(content), "ExecStart=") {
			t.Errorf("%s starts nothing", unit)
		}
	}
}

func TestPopulateReplacesLinks(t *testing.T) {
	dir := t.TempDir()
	tree, programs := filepath.Join(dir, "tree"), filepath.Join(dir, "programs")
	for _, p := range []string{"kubelet", "kube-proxy", "containerd", "containerd-shim-runc-v2", "ctr", "runc", "steady", "bridge", "host-local", "loopback", "portmap"} {
		write(t, filepath.Join(programs, p), p)
	}
	write(t, filepath.Join(tree, "usr/share/doc/x"), "dropped")
	write(t, filepath.Join(tree, "var/x"), "")
	outside := filepath.Join(dir, "outside")
	write(t, outside, "untouched")
	if err := link(outside, filepath.Join(tree, "etc/resolv.conf")); err != nil {
		t.Fatal(err)
	}
	in := Inputs{Kubernetes: programs, Containerd: programs, Runc: programs, CNI: programs, Steady: programs}
	if err := populate(tree, in); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(outside); err != nil || string(got) != "untouched" {
		t.Errorf("a link led out of the tree: %q, %v", got, err)
	}
	if _, err := os.Stat(filepath.Join(tree, "usr/share/doc")); err == nil {
		t.Error("documentation is left")
	}
	if target, err := os.Readlink(filepath.Join(tree, "etc/systemd/system", masked[0])); err != nil || target != "/dev/null" {
		t.Errorf("%s is not masked: %q, %v", masked[0], target, err)
	}
	info, err := os.Stat(filepath.Join(tree, "opt/cni/bin/bridge"))
	if err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("bridge: %v, %v", info, err)
	}
}
