// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestTracesAreFound(t *testing.T) {
	dir := t.TempDir()
	set := filepath.Join(dir, "set")
	for _, d := range []string{set, filepath.Join(set, "open")} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(set, "open"), 0o710); err != nil {
		t.Fatal(err)
	}
	page := append(make([]byte, 4096), "the secret"...)
	for name, content := range map[string][]byte{"set/open/pages": page, "set/inventory": []byte("the sec")} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if found, err := filesWith(dir, "the secret"); err != nil || !slices.Equal(found, []string{"set/open/pages"}) {
		t.Errorf("%q, %v", found, err)
	}
	if found, err := openToOthers(set); err != nil || len(found) != 1 || !strings.HasSuffix(found[0], "open 710") {
		t.Errorf("%q, %v", found, err)
	}
	for _, look := range []func(string) error{
		func(d string) error { _, err := filesWith(d, "x"); return err },
		func(d string) error { _, err := openToOthers(d); return err },
	} {
		if look(filepath.Join(dir, "missing")) == nil {
			t.Error("a directory that is not there has nothing in it")
		}
	}
}
