// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/modfile"

	"godwit.dev/godwit/test/images/catalog"
)

// instructions returns the arguments of every such instruction of the
// Dockerfile.
func instructions(t *testing.T, name string) []string {
	t.Helper()
	data, err := os.ReadFile("../../Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			found = append(found, strings.TrimSpace(rest))
		}
	}
	return found
}

func TestKeyCoversWhatTheDockerfileCopies(t *testing.T) {
	var copied []string
	for _, line := range instructions(t, "COPY") {
		if strings.HasPrefix(line, "--from=") {
			continue
		}
		sources := strings.Fields(line)
		for _, s := range sources[:len(sources)-1] {
			copied = append(copied, strings.TrimSuffix(s, "/"))
		}
	}
	if !slices.Equal(copied, contextPaths) {
		t.Errorf("the Dockerfile copies %q, the key covers %q", copied, contextPaths)
	}
	ignore, err := os.ReadFile("../../.dockerignore")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range contextPaths {
		if !strings.Contains(string(ignore), "\n!"+p+"\n") {
			t.Errorf(".dockerignore keeps %s out", p)
		}
	}
}

func TestDockerfileUsesTheModulesGoVersion(t *testing.T) {
	data, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	mod, err := modfile.ParseLax("go.mod", data, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := "GO_VERSION=" + mod.Go.Version
	if args := instructions(t, "ARG"); !slices.Contains(args, want) {
		t.Errorf("the Dockerfile has no ARG %s, but %q", want, args)
	}
}

func TestWorkloadKeyFollowsItsInputs(t *testing.T) {
	image := catalog.Image{Name: "x", Programs: []catalog.Program{{Package: "./x", Path: "/x"}}}
	key := func(i catalog.Image, program string) string {
		k, err := workloadKey(i, map[string][]byte{"/x": []byte(program)}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	first := key(image, "a")
	if key(image, "a") != first {
		t.Error("the key of the same image changes")
	}
	if key(image, "b") == first {
		t.Error("another program has the same key")
	}
	other := image
	other.Cmd = []string{"y"}
	if key(other, "a") == first {
		t.Error("another command has the same key")
	}
}

var fileTime = time.Unix(1e9, 0)

func TestPruneKeepsTheLatestAndTheCurrent(t *testing.T) {
	dir := t.TempDir()
	for i, n := range []string{"x-old.tar", "x-b.tar", "x-c.tar", "x-d.tar", "y-z.tar"} {
		file := filepath.Join(dir, n)
		if err := os.WriteFile(file, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		when := fileTime.AddDate(0, 0, i)
		if err := os.Chtimes(file, when, when); err != nil {
			t.Fatal(err)
		}
	}
	if err := link(filepath.Join(dir, "x-b.tar"), filepath.Join(dir, "x.tar")); err != nil {
		t.Fatal(err)
	}
	// Back to the oldest: it is the one in use.
	if err := link(filepath.Join(dir, "x-old.tar"), filepath.Join(dir, "x.tar")); err != nil {
		t.Fatal(err)
	}
	if err := prune(dir, "x"); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range left {
		names = append(names, filepath.Base(f))
	}
	want := []string{"x-c.tar", "x-d.tar", "x-old.tar", "x.tar", "y-z.tar"}
	if !slices.Equal(names, want) {
		t.Errorf("left %q, want %q", names, want)
	}
}

func TestCatalogIsSound(t *testing.T) {
	seen := map[string]bool{catalog.Godwit: true}
	for _, image := range catalog.All() {
		if seen[image.Name] {
			t.Errorf("two images are called %s", image.Name)
		}
		seen[image.Name] = true
		if len(image.Entrypoint)+len(image.Cmd) == 0 {
			t.Errorf("%s starts nothing", image.Name)
		}
		for _, p := range image.Programs {
			if p.Module != "" {
				if p.Version == "" || !strings.HasPrefix(p.Package, p.Module) {
					t.Errorf("%s: the package %s is not of %s, or no version of that is named", image.Name, p.Package, p.Module)
				}
				continue
			}
			if _, err := os.Stat(filepath.Join("../..", p.Package)); err != nil {
				t.Errorf("%s: %v", image.Name, err)
			}
		}
	}
}
