// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// populate turns the Debian tree into a node's.
func populate(tree string, in Inputs) error {
	for _, path := range dropped {
		if err := os.RemoveAll(filepath.Join(tree, path)); err != nil {
			return err
		}
	}
	if err := copyEmbedded(tree); err != nil {
		return err
	}
	if err := installPrograms(tree, in); err != nil {
		return err
	}
	units := filepath.Join(tree, "etc/systemd/system")
	for _, unit := range enabled {
		if err := link("../"+unit, filepath.Join(units, "multi-user.target.wants", unit)); err != nil {
			return err
		}
	}
	for _, unit := range masked {
		if err := link("/dev/null", filepath.Join(units, unit)); err != nil {
			return err
		}
	}
	// systemd runs the units of a first boot when these are older than /usr.
	for _, stamp := range []string{"etc/.updated", "var/.updated"} {
		if err := os.WriteFile(filepath.Join(tree, stamp), nil, 0o644); err != nil {
			return err
		}
	}
	for _, dir := range []string{"boot", "var/cache/apt/archives/partial", "var/lib/apt/lists/partial", "var/log/journal", "etc/containerd/conf.d"} {
		if err := os.MkdirAll(filepath.Join(tree, dir), 0o755); err != nil {
			return err
		}
	}
	return nil
}

func copyEmbedded(tree string) error {
	return fs.WalkDir(files, "files", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := files.ReadFile(path)
		if err != nil {
			return err
		}
		target := filepath.Join(tree, strings.TrimPrefix(path, "files/"))
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return err
		}
		if err := os.Remove(target); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return os.WriteFile(target, content, 0o644)
	})
}

func installPrograms(tree string, in Inputs) error {
	for _, p := range []struct {
		from  string
		to    string
		names []string
	}{
		{in.Kubernetes, "usr/local/bin", []string{"kubelet", "kube-proxy"}},
		{in.Containerd, "usr/local/bin", []string{"containerd", "containerd-shim-runc-v2", "ctr"}},
		{in.Runc, "usr/local/bin", []string{"runc"}},
		{in.Steady, "usr/local/lib/godwit", []string{"steady"}},
		{in.CNI, "opt/cni/bin", []string{"bridge", "host-local", "loopback", "portmap"}},
	} {
		for _, name := range p.names {
			if err := copyProgram(filepath.Join(p.from, name), filepath.Join(tree, p.to, name)); err != nil {
				return err
			}
		}
	}
	return nil
}

func copyProgram(from, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(target, source); err != nil {
		target.Close()
		return fmt.Errorf("copy %s: %w", from, err)
	}
	return target.Close()
}

// link makes path a symbolic link to target, whatever it was before.
func link(target, path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Symlink(target, path)
}
