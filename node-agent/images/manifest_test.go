// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package images

import (
	"bytes"
	"encoding/json"
	"errors"
	"path/filepath"
	"strings"
	"testing"
)

func goodManifest() Manifest {
	sum := Digest(nil)
	return Manifest{Version: ManifestVersion, MigrationUID: testUID, Dirs: []Dir{
		{Container: "app", Name: "files", Files: []File{{"rootfs.tar", 3, sum}}},
		{Container: "app", Name: "final", Parent: "../round-001", Files: []File{{"a.img", 1, sum}, {"b.img", 2, sum}}},
		{Container: "app", Name: "round-000", Files: []File{{"a.img", 1, sum}}},
		{Container: "app", Name: "round-001", Parent: "../round-000", Files: []File{}},
	}}
}

func TestManifestIsRefused(t *testing.T) {
	for name, spoil := range map[string]func(m *Manifest){
		"other version":          func(m *Manifest) { m.Version = ManifestVersion + 1 },
		"no UID":                 func(m *Manifest) { m.MigrationUID = "" },
		"UID with a path":        func(m *Manifest) { m.MigrationUID = "../x" },
		"nothing in it":          func(m *Manifest) { m.Dirs = nil },
		"no final dump":          func(m *Manifest) { m.Dirs = m.Dirs[2:] },
		"container with a path":  func(m *Manifest) { m.Dirs[0].Container = "../other" },
		"unknown directory":      func(m *Manifest) { m.Dirs[0].Name = "etc" },
		"round without a number": func(m *Manifest) { m.Dirs[2].Name = "round-+00" },
		"directories unordered":  func(m *Manifest) { m.Dirs[0], m.Dirs[1] = m.Dirs[1], m.Dirs[0] },
		"directory twice":        func(m *Manifest) { m.Dirs[3] = m.Dirs[2] },
		"file ..":                func(m *Manifest) { m.Dirs[0].Files[0].Name = ".." },
		"file with a path":       func(m *Manifest) { m.Dirs[0].Files[0].Name = "../../etc/shadow" },
		"absolute file":          func(m *Manifest) { m.Dirs[0].Files[0].Name = "/etc/shadow" },
		"nested file":            func(m *Manifest) { m.Dirs[0].Files[0].Name = "a/b" },
		"file without a name":    func(m *Manifest) { m.Dirs[0].Files[0].Name = "" },
		"file with NUL":          func(m *Manifest) { m.Dirs[0].Files[0].Name = "a\x00b" },
		"file called parent":     func(m *Manifest) { m.Dirs[0].Files[0].Name = "parent" },
		"long file name":         func(m *Manifest) { m.Dirs[0].Files[0].Name = strings.Repeat("a", 256) },
		"files unordered":        func(m *Manifest) { f := m.Dirs[1].Files; f[0], f[1] = f[1], f[0] },
		"file twice":             func(m *Manifest) { m.Dirs[1].Files[1].Name = "a.img" },
		"negative size":          func(m *Manifest) { m.Dirs[0].Files[0].Size = -1 },
		"short hash":             func(m *Manifest) { m.Dirs[0].Files[0].Hash = "abcd" },
		"hash in upper case":     func(m *Manifest) { f := &m.Dirs[0].Files[0]; f.Hash = strings.ToUpper(f.Hash) },
		"absolute parent":        func(m *Manifest) { m.Dirs[1].Parent = "/etc" },
		"parent with a path":     func(m *Manifest) { m.Dirs[1].Parent = "../round-000/../../x" },
		"parent that is missing": func(m *Manifest) { m.Dirs[1].Parent = "../round-009" },
		"parent is itself":       func(m *Manifest) { m.Dirs[3].Parent = "../round-001" },
		"parent comes later":     func(m *Manifest) { m.Dirs[2].Parent = "../round-001" },
		"files of a round with a parent": func(m *Manifest) {
			m.Dirs[0].Name, m.Dirs[0].Parent = "files-001", "../round-000"
		},
		"round of the pod": func(m *Manifest) { m.Dirs[0].Container, m.Dirs[0].Name = Pod, "round-000" },
		"dump of the pod":  func(m *Manifest) { m.Dirs[0].Container, m.Dirs[0].Name = Pod, "final" },
		"nothing but the pod": func(m *Manifest) {
			m.Dirs = m.Dirs[:1]
			m.Dirs[0].Container = Pod
		},
		"files with a parent": func(m *Manifest) { m.Dirs[0].Parent = "../round-000" },
	} {
		t.Run(name, func(t *testing.T) {
			m := goodManifest()
			spoil(&m)
			b, err := json.Marshal(m)
			must(t, err)
			if _, err := decodeManifest(b); !errors.Is(err, ErrManifest) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestManifestSyntax(t *testing.T) {
	m := goodManifest()
	good, err := encodeManifest(&m)
	must(t, err)
	if _, err := decodeManifest(good); err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{
		"empty":           nil,
		"null":            []byte("null"),
		"trailing object": append(bytes.Clone(good), "{}"...),
		"unknown field":   bytes.Replace(good, []byte(`"version":4`), []byte(`"version":4,"exec":"x"`), 1),
		"cut short":       good[:len(good)-10],
		"too large":       append(bytes.Clone(good), bytes.Repeat([]byte(" "), MaxManifest)...),
	} {
		if _, err := decodeManifest(b); !errors.Is(err, ErrManifest) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzDecodeManifest(f *testing.F) {
	m := goodManifest()
	good, err := encodeManifest(&m)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"version":4,"migrationUID":"a","dirs":[{"container":"a","name":"final","files":[{"name":"..","size":1,"hash":""}]}]}`))
	f.Add([]byte(`{"version":4,"migrationUID":"a","dirs":[{"container":"a","name":"final","parent":"../round-000","files":[]}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeManifest(b)
		if err != nil {
			if !errors.Is(err, ErrManifest) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		// Whatever is accepted names only what lies in the set itself.
		const set = "/volume/set"
		for _, d := range m.Dirs {
			dir := filepath.Join(set, d.Container, d.Name)
			if filepath.Dir(filepath.Dir(dir)) != set {
				t.Fatalf("directory %q leads to %q", d.path(), dir)
			}
			if d.Parent != "" && filepath.Dir(filepath.Join(dir, d.Parent)) != filepath.Dir(dir) {
				t.Fatalf("parent %q of %q", d.Parent, d.path())
			}
			for _, file := range d.Files {
				if p := filepath.Join(dir, file.Name); filepath.Dir(p) != dir || filepath.Base(p) != file.Name {
					t.Fatalf("file %q leads to %q", file.Name, p)
				}
			}
		}
		again, err := encodeManifest(m)
		if err != nil {
			t.Fatalf("cannot be written again: %v", err)
		}
		if _, err := decodeManifest(again); err != nil {
			t.Fatalf("cannot be read again: %v", err)
		}
	})
}
