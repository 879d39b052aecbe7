// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package containerd

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/pelletier/go-toml/v2"
)

const effectiveV3 = `
version = 3
[plugins.'io.containerd.cri.v1.runtime'.containerd]
  default_runtime_name = 'runc'
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = 'io.containerd.runc.v2'
  runtime_path = ''
  pod_annotations = []
  privileged_without_host_devices = false
  base_runtime_spec = '/etc/containerd/base.json'
  cni_max_conf_num = 0
  sandboxer = 'podsandbox'
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
    BinaryName = ''
    SystemdCgroup = true
    NoPivotRoot = false
`

func dropInOf(t *testing.T, version int, effective string) ([]byte, error) {
	t.Helper()
	c, err := parseConfig([]byte(effective))
	if err != nil {
		t.Fatal(err)
	}
	return dropIn(version, c, "godwit", "/opt/godwit/bin/godwit-runc")
}

func TestDropIn(t *testing.T) {
	b, err := dropInOf(t, 3, effectiveV3)
	if err != nil {
		t.Fatal(err)
	}
	// A file that differs would restart containerd.
	if again, err := dropInOf(t, 3, effectiveV3); err != nil || string(again) != string(b) {
		t.Errorf("the same configuration gives another file: %v", err)
	}
	if !strings.HasPrefix(string(b), "# ") {
		t.Error("the file does not say whose it is")
	}
	var m map[string]any
	if err := toml.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"version": int64(3),
		"plugins": map[string]any{"io.containerd.cri.v1.runtime": map[string]any{"containerd": map[string]any{"runtimes": map[string]any{
			"godwit": map[string]any{
				"runtime_type":      "io.containerd.runc.v2",
				"base_runtime_spec": "/etc/containerd/base.json",
				"sandboxer":         "podsandbox",
				"pod_annotations":   []any{"godwit.dev/*"},
				"options":           map[string]any{"BinaryName": "/opt/godwit/bin/godwit-runc", "SystemdCgroup": true},
			},
		}}}},
	}
	if !reflect.DeepEqual(m, want) {
		t.Errorf("got\n%s\nwant %v", b, want)
	}
}

func TestDropInOfVersion2(t *testing.T) {
	const v2 = `
version = 2
[plugins."io.containerd.grpc.v1.cri".containerd]
  default_runtime_name = "mine"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.kata]
  runtime_type = "io.containerd.kata.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.mine]
  runtime_type = "io.containerd.runc.v2"
  pod_annotations = ["a/*", "godwit.dev/*"]
`
	c, err := parseConfig([]byte(v2))
	if err != nil {
		t.Fatal(err)
	}
	b, err := dropIn(2, c, "godwit", "/b")
	if err != nil {
		t.Fatal(err)
	}
	out, err := parseConfig(b)
	if err != nil {
		t.Fatal(err)
	}
	plugin, _, entries := out.runtimes()
	entry := table(entries, "godwit")
	if out.Version != 2 || plugin != "io.containerd.grpc.v1.cri" || table(entry, "options")["BinaryName"] != "/b" ||
		!reflect.DeepEqual(entry["pod_annotations"], []any{"a/*", "godwit.dev/*"}) {
		t.Errorf("got\n%s", b)
	}
}

func TestDropInNeedsRunc(t *testing.T) {
	const kata = `
version = 3
[plugins.'io.containerd.cri.v1.runtime'.containerd]
  default_runtime_name = 'kata'
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.kata]
  runtime_type = 'io.containerd.kata.v2'
`
	if _, err := dropInOf(t, 3, kata); !errors.Is(err, ErrNoRunc) {
		t.Errorf("got %v", err)
	}
	if _, err := dropInOf(t, 3, "version = 3"); !errors.Is(err, ErrNoRunc) {
		t.Errorf("got %v", err)
	}
}

func TestDropInDir(t *testing.T) {
	for _, k := range []struct {
		imports []string
		want    string
	}{
		{[]string{"/etc/containerd/conf.d/*.toml"}, "/etc/containerd/conf.d"},
		{[]string{"/etc/other.toml", "/srv/c/*"}, "/srv/c"},
		{[]string{"conf.d/*.toml"}, "/etc/containerd/conf.d"},
		{[]string{"/etc/*/x/*.toml", "/b/g*.toml"}, "/b"},
		{[]string{"/etc/one.toml"}, ""},
		{nil, ""},
	} {
		got, err := config{Imports: k.imports}.dropInDir("/etc/containerd/config.toml", DefaultDropIn)
		if got != k.want || (k.want == "") != errors.Is(err, ErrNoImports) {
			t.Errorf("%v: %q, %v", k.imports, got, err)
		}
		if err != nil && !strings.Contains(err.Error(), "imports = ['/etc/containerd/conf.d/*.toml']") {
			t.Errorf("the message does not help: %v", err)
		}
	}
}

func TestParseCgroup(t *testing.T) {
	for text, want := range map[string]string{
		"0::/kubepods.slice/x.scope\n": "/sys/fs/cgroup/kubepods.slice/x.scope",
		"1:name=systemd:/a\n0::/b\n":   "/sys/fs/cgroup/b",
		"0::/../../other\n":            "",
		"0::/\n":                       "",
		"4:memory:/a\n":                "",
		"":                             "",
	} {
		got, err := parseCgroup([]byte(text))
		if got != want || (want == "") != (err != nil) {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
}

func TestUpperOf(t *testing.T) {
	overlay := []mount.Mount{{Type: "overlay", Options: []string{"index=off", "workdir=/s/9/work", "upperdir=/s/9/fs", "lowerdir=/s/1/fs"}}}
	if got := upperOf(overlay); got != "/s/9/fs" {
		t.Errorf("got %q", got)
	}
	if got := upperOf([]mount.Mount{{Type: "bind", Options: []string{"rw", "rbind"}}}); got != "" {
		t.Errorf("got %q", got)
	}
}

func TestShmSource(t *testing.T) {
	spec := &specs.Spec{Mounts: []specs.Mount{
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs"},
		{Destination: "/dev/shm/", Type: "bind", Source: "/run/x/shm"},
	}}
	if got := shmSource(spec); got != "/run/x/shm" {
		t.Errorf("got %q", got)
	}
	// The last mount at a place is the one that is seen.
	spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/dev/shm", Type: "tmpfs", Source: "shm"})
	if got := shmSource(spec); got != "" {
		t.Errorf("got %q", got)
	}
}
