// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package rootfs

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"strings"
	"testing"
)

func add(t *testing.T, tree *Tree, h tar.Header, data string) {
	t.Helper()
	if err := tree.Add(&h, strings.NewReader(data)); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, archive []byte) map[string]tar.Header {
	t.Helper()
	entries := make(map[string]tar.Header)
	tr := tar.NewReader(bytes.NewReader(archive))
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return entries
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeLink {
			if _, ok := entries[h.Linkname]; !ok {
				t.Errorf("hard link %s comes before its target %s", h.Name, h.Linkname)
			}
		}
		entries[h.Name] = *h
	}
}

func TestTreeMovesPathsIntoMergedUsr(t *testing.T) {
	tree := New()
	add(t, tree, tar.Header{Name: "./bin", Typeflag: tar.TypeSymlink, Linkname: "usr/bin"}, "")
	add(t, tree, tar.Header{Name: "./bin/sh", Typeflag: tar.TypeReg, Mode: 0o755}, "x")
	add(t, tree, tar.Header{Name: "./usr/bin/a-link", Typeflag: tar.TypeLink, Linkname: "./bin/sh"}, "")
	add(t, tree, tar.Header{Name: "./usr/share/doc/x/README", Typeflag: tar.TypeReg}, "x")
	add(t, tree, tar.Header{Name: "./usr/share/doc/x/copyright", Typeflag: tar.TypeReg}, "x")
	archive, err := tree.Tar()
	if err != nil {
		t.Fatal(err)
	}
	entries := read(t, archive)
	for _, want := range []string{"bin", "usr/", "usr/bin/", "usr/bin/sh", "usr/bin/a-link", "usr/share/doc/x/copyright"} {
		if _, ok := entries[want]; !ok {
			t.Errorf("no %s in the archive", want)
		}
	}
	if got := entries["usr/bin/a-link"].Linkname; got != "usr/bin/sh" {
		t.Errorf("the hard link points to %s", got)
	}
	if _, ok := entries["usr/share/doc/x/README"]; ok {
		t.Error("documentation was kept")
	}
}

func TestTreeRefusesTheSameFileTwice(t *testing.T) {
	tree := New()
	add(t, tree, tar.Header{Name: "./bin/sh", Typeflag: tar.TypeReg}, "x")
	add(t, tree, tar.Header{Name: "./usr/bin", Typeflag: tar.TypeDir}, "")
	if err := tree.Add(&tar.Header{Name: "./usr/bin/sh", Typeflag: tar.TypeReg}, strings.NewReader("y")); err == nil {
		t.Fatal("two packages with the same file were accepted")
	}
	if err := tree.Add(&tar.Header{Name: "./dev/null", Typeflag: tar.TypeChar}, strings.NewReader("")); err == nil {
		t.Fatal("a device was accepted")
	}
}

func TestTarIsReproducible(t *testing.T) {
	build := func(names ...string) []byte {
		tree := New()
		for _, n := range names {
			tree.File(n, 0o644, []byte(n))
		}
		tree.Dir("/tmp", 0o1777, 0)
		archive, err := tree.Tar()
		if err != nil {
			t.Fatal(err)
		}
		return archive
	}
	if !bytes.Equal(build("/etc/a", "/etc/b"), build("/etc/b", "/etc/a")) {
		t.Fatal("the order of additions changes the archive")
	}
}

func TestCheckLibrariesNamesWhatIsMissing(t *testing.T) {
	// Any program that is linked dynamically will do.
	program, err := os.ReadFile("/bin/ls")
	if err != nil {
		t.Skipf("no program to look at: %v", err)
	}
	tree := New()
	tree.File("/bin/ls", 0o755, program)
	err = tree.CheckLibraries()
	if err == nil || !strings.Contains(err.Error(), "/usr/bin/ls needs libc.so.6") {
		t.Fatalf("CheckLibraries = %v", err)
	}
	needed, err := needs(program)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range needed {
		tree.File("/lib/x86_64-linux-gnu/"+n, 0o644, nil)
	}
	if err := tree.CheckLibraries(); err != nil {
		t.Fatalf("with all libraries there: %v", err)
	}
}
