// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestScriptsAreShell(t *testing.T) {
	c := chain{images: "/i/a", work: "/w"}
	for name, script := range map[string]string{
		"clean": cleanScript, "clean images": cleanImages, "stats": fmt.Sprintf(statsScript, "/x"), "warm": c.warm(1),
		"pre-dump": c.criuPreDump("7", 1), "dump": c.criuDump("7", 2), "restore": c.criuRestore(2),
		"checkpoint": c.runcCheckpoint(1, true), "runc restore": c.runcRestore(3),
		"podman's configuration": podmanConfig, "podman import": podmanImport("/i/x"), "podman load": podmanLoad("/i/x"), "podman run": podmanStart(cell{SizeMiB: 64}),
		"podman checkpoint": c.podmanCheckpoint(1), "podman restore": c.podmanRestore(), "podman's statistics": c.podmanStats("stats-dump", 0),
	} {
		if out, err := exec.Command("bash", "-n", "-c", script).CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", name, err, out)
		}
	}
}

func TestDumpsAreChained(t *testing.T) {
	c := chain{images: "/i", work: "/w"}
	for _, k := range []struct{ line, has, hasNot string }{
		{c.criuPreDump("7", 0), "criu pre-dump --images-dir /i/0 --work-dir /w/0 --log-file log --tree 7 --track-mem --pre-dump-mode read ||", "prev-images-dir"},
		{c.criuPreDump("7", 2), "--prev-images-dir ../1 ||", "../2"},
		{c.criuDump("7", 3), "criu dump --images-dir /i/3 --work-dir /w/3 --log-file log --tree 7 --track-mem --manage-cgroups=ignore --prev-images-dir ../2 ||", "pre-dump"},
		{c.criuRestore(3), "criu restore --images-dir /i/3 --work-dir /w/3 --log-file log --restore-detached --manage-cgroups=ignore ||", "track-mem"},
		{c.runcCheckpoint(0, true), "checkpoint --image-path /i/0 --work-path /w/0 --pre-dump bench >/dev/null 2>&1 ||", "parent-path"},
		{c.runcCheckpoint(3, false), "checkpoint --image-path /i/3 --work-path /w/3 --parent-path ../2 bench", "pre-dump"},
		{c.podmanCheckpoint(0), "container checkpoint --pre-checkpoint --export /i/0.tar --compress none --ignore-rootfs --ignore-volumes bench ||", "with-previous"},
		{c.podmanCheckpoint(1), "container checkpoint --with-previous --keep --export /i/1.tar --compress none --ignore-rootfs", "pre-checkpoint"},
		{c.podmanRestore(), "container restore --import-previous /i/0.tar --import /i/1.tar --keep --ignore-rootfs --ignore-volumes ||", " bench"},
	} {
		if !strings.Contains(k.line, k.has) || strings.Contains(k.line, k.hasNot) {
			t.Errorf("%s\nhas to have %q and not %q", k.line, k.has, k.hasNot)
		}
	}
}

// A command that fails shows what its log has to say, and fails still.
func TestFailuresAreExplained(t *testing.T) {
	log := t.TempDir() + "/log"
	script := "printf 'fine\\nError (x.c:1): no\\n' > " + log + "; " + explain("(exit 7)", log)
	out, err := exec.Command("bash", "-c", script).Output()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 7 || !strings.Contains(string(out), "x.c:1") || strings.Contains(string(out), "fine") {
		t.Errorf("%q, %v", out, err)
	}
	if out, err := exec.Command("bash", "-c", explain("true", "/none")).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("%q, %v", out, err)
	}
}

func TestTheBundle(t *testing.T) {
	example := `{"ociVersion": "1.3.0", "hostname": "runc", "root": {"path": "rootfs", "readonly": true},
		"process": {"terminal": true, "cwd": "/", "args": ["sh"], "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}, "noNewPrivileges": true},
		"mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
		"linux": {"namespaces": [{"type": "pid"}, {"type": "network"}, {"type": "mount"}], "maskedPaths": ["/proc/kcore"]}}`
	c := cell{SizeMiB: 256, RatePercent: 10, Pattern: "hot"}
	text, err := bundleConfig([]byte(example), c)
	if err != nil {
		t.Fatal(err)
	}
	var spec specs.Spec
	if err := json.Unmarshal(text, &spec); err != nil {
		t.Fatal(err)
	}
	if spec.Process.Terminal || spec.Root.Readonly || !slices.Equal(spec.Process.Args, []string{"/memhog"}) || spec.Linux.CgroupsPath == "" ||
		len(spec.Linux.Namespaces) != 2 || len(spec.Mounts) != 1 || len(spec.Linux.MaskedPaths) != 1 || !spec.Process.NoNewPrivileges {
		t.Errorf("%s", text)
	}
	want := []string{"PATH=/bin", "SIZE_MIB=256", "DIRTY_MIB_PER_SECOND=25.6", "PATTERN=hot", "LISTEN=:18080", "GODEBUG=containermaxprocs=0"}
	if !slices.Equal(spec.Process.Env, want) {
		t.Errorf("environment %q", spec.Process.Env)
	}
	if _, err := bundleConfig([]byte(`{}`), c); err == nil {
		t.Error("no configuration was accepted")
	}
}

func TestLoadOfACell(t *testing.T) {
	for want, c := range map[string]cell{
		"/dirty?mibPerSecond=10.24&pattern=uniform": {1024, 1, "uniform"},
		"/dirty?mibPerSecond=0":                     {1024, 0, ""},
	} {
		if got := load(c); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}
