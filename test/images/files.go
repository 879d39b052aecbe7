// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"godwit.dev/godwit/test/images/catalog"
	"godwit.dev/godwit/test/images/debian"
	"godwit.dev/godwit/test/images/rootfs"
)

// files makes the archive NAME.tar of what is in the packages, and in none that they
// depend on, unless the cache has it. Their maintainer scripts run nowhere.
func (b *builder) files(ctx context.Context, name string, packages []string) error {
	h, err := newKey(catalog.Suite, strings.Join(packages, " "))
	if err != nil {
		return err
	}
	file := filepath.Join(b.dir, name+"-"+digest(h)+".tar")
	if _, err := os.Stat(file); err == nil {
		b.logf("the files of %s are up to date", name)
	} else {
		b.logf("unpacking %s", name)
		if err := b.unpack(ctx, file, packages); err != nil {
			return err
		}
	}
	if err := link(file, filepath.Join(b.dir, name+".tar")); err != nil {
		return err
	}
	return prune(b.dir, name)
}

// unpack writes the files of the packages to an archive.
func (b *builder) unpack(ctx context.Context, file string, packages []string) error {
	debs, err := b.apt.Download(ctx, packages)
	if err != nil {
		return err
	}
	tree := rootfs.New()
	for _, p := range packages {
		deb, ok := debs[p]
		if !ok {
			return fmt.Errorf("apt does not plan to install %s", p)
		}
		if err := debian.ReadFiles(ctx, deb, tree.Add); err != nil {
			return err
		}
	}
	content, err := tree.Tar()
	if err != nil {
		return err
	}
	if err := os.WriteFile(file+".new", content, 0o644); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}
