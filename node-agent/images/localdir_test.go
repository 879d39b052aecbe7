// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package images

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// Somebody who was there before the agent must not own what is restored.
func TestLocalDirIsOursAlone(t *testing.T) {
	other := t.TempDir()
	for name, c := range map[string]struct {
		make func(dir string) error
		node string // "": the same
		ok   bool
	}{
		"new":             {func(string) error { return nil }, "", true},
		"kubelet made it": {func(dir string) error { return os.Mkdir(dir, 0o755) }, "", true},
		"a link":          {func(dir string) error { return os.Symlink(other, dir) }, "", false},
		"a file":          {func(dir string) error { return os.WriteFile(dir, nil, 0o600) }, "", false},
		"open to others":  {func(dir string) error { return errors.Join(os.Mkdir(dir, 0o700), os.Chmod(dir, 0o777)) }, "", false},
		"of another user": {func(dir string) error { return errors.Join(os.Mkdir(dir, 0o700), os.Chown(dir, 65534, -1)) }, "", false},
		"another one":     {func(string) error { return nil }, other, false},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "of another user" && os.Geteuid() != 0 {
				t.Skip("NOT RUN: only root can give a directory away")
			}
			dir := filepath.Join(t.TempDir(), "godwit")
			must(t, c.make(dir))
			node := c.node
			if node == "" {
				node = dir
			}
			if err := CheckLocalDir(dir, node); c.ok != (err == nil) || err != nil && !errors.Is(err, errLocalDir) {
				t.Errorf("got %v", err)
			}
		})
	}
}
