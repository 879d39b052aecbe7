// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"godwit.dev/godwit/test/images/archive"
	"godwit.dev/godwit/test/images/catalog"
	"godwit.dev/godwit/test/images/debian"
	"godwit.dev/godwit/test/images/rootfs"
)

// workloadKey is a hash of the image's description and programs. Versions of
// packages are not part of it: an image stays as it is until its description
// changes.
func workloadKey(image catalog.Image, programs, files map[string][]byte) (string, error) {
	description, err := json.Marshal(image)
	if err != nil {
		return "", err
	}
	h, err := newKey(catalog.Suite, string(description))
	if err != nil {
		return "", err
	}
	for _, path := range slices.Sorted(maps.Keys(programs)) {
		_, _ = fmt.Fprintf(h, "%s %d\n", path, len(programs[path]))
		_, _ = h.Write(programs[path])
	}
	for _, path := range slices.Sorted(maps.Keys(files)) {
		_, _ = fmt.Fprintf(h, "file %s %d\n", path, len(files[path]))
		_, _ = h.Write(files[path])
	}
	return digest(h), nil
}

// filesOf reads the files of this repository that go into an image, by their path in it.
func (b *builder) filesOf(image catalog.Image) (map[string][]byte, error) {
	files := make(map[string][]byte)
	for _, f := range image.Files {
		data, err := os.ReadFile(filepath.Join(b.module, f.Source))
		if err != nil {
			return nil, err
		}
		files[f.Path] = data
	}
	return files, nil
}

// workload makes the image of a row of the catalog.
func (b *builder) workload(ctx context.Context, image catalog.Image, programs, files map[string][]byte) (v1.Image, error) {
	tree, err := b.tree(ctx, image)
	if err != nil {
		return nil, err
	}
	for path, data := range programs {
		tree.File(path, 0o755, data)
	}
	for _, f := range image.Files {
		tree.File(f.Path, f.Mode, files[f.Path])
	}
	if err := tree.CheckLibraries(); err != nil {
		return nil, err
	}
	layer, err := tree.Tar()
	if err != nil {
		return nil, err
	}
	config := v1.Config{
		Entrypoint: image.Entrypoint, Cmd: image.Cmd, User: image.User, WorkingDir: image.WorkingDir,
		Env: append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, image.Env...),
	}
	for _, port := range image.Ports {
		if config.ExposedPorts == nil {
			config.ExposedPorts = make(map[string]struct{})
		}
		config.ExposedPorts[port] = struct{}{}
	}
	return archive.FromLayer(layer, config)
}

// tree puts the root file system together, without the programs.
func (b *builder) tree(ctx context.Context, image catalog.Image) (*rootfs.Tree, error) {
	tree := rootfs.New()
	if len(image.Packages) > 0 {
		debs, err := b.apt.Download(ctx, image.Packages)
		if err != nil {
			return nil, err
		}
		for _, name := range slices.Sorted(maps.Keys(debs)) {
			if slices.Contains(image.Omit, name) {
				continue
			}
			if err := debian.ReadFiles(ctx, debs[name], leave(image.Leave, tree.Add)); err != nil {
				return nil, err
			}
		}
	}
	addUsers(tree, image.Users)
	for _, d := range image.Dirs {
		tree.Dir(d.Path, d.Mode, d.Owner)
	}
	if image.Busybox {
		if err := addApplets(ctx, tree, b.dir); err != nil {
			return nil, err
		}
	}
	return tree, nil
}

// leave passes an archive's entries on, but for some.
func leave(paths []string, add func(*tar.Header, io.Reader) error) func(*tar.Header, io.Reader) error {
	return func(h *tar.Header, r io.Reader) error {
		name := path.Clean("/" + h.Name)
		for _, p := range paths {
			if name == p || (strings.HasSuffix(p, "/") && strings.HasPrefix(name+"/", p)) {
				return nil
			}
		}
		return add(h, r)
	}
}

func addUsers(tree *rootfs.Tree, users []catalog.User) {
	if len(users) == 0 {
		return
	}
	var passwd, group strings.Builder
	for _, u := range users {
		_, _ = fmt.Fprintf(&passwd, "%s:x:%d:%d::%s:/bin/sh\n", u.Name, u.ID, u.ID, u.Home)
		_, _ = fmt.Fprintf(&group, "%s:x:%d:\n", u.Name, u.ID)
	}
	tree.File("/etc/passwd", 0o644, []byte(passwd.String()))
	tree.File("/etc/group", 0o644, []byte(group.String()))
}

// addApplets asks the image's busybox for its applets and links each to it. The
// program is static, so it runs here as it does there.
func addApplets(ctx context.Context, tree *rootfs.Tree, scratch string) error {
	const path = "/bin/busybox"
	data, ok := tree.Data(path)
	if !ok {
		return fmt.Errorf("no package brings %s", path)
	}
	dir, err := os.MkdirTemp(scratch, ".busybox-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	// It takes itself for the applet that it is called by.
	program := filepath.Join(dir, "busybox")
	if err := os.WriteFile(program, data, 0o755); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, program, "--list").Output()
	if err != nil {
		return fmt.Errorf("busybox --list: %w", err)
	}
	for _, applet := range strings.Fields(string(out)) {
		tree.Symlink("/bin/"+applet, "busybox")
	}
	return nil
}

// copyFile adds a file of this machine to the tree.
func copyFile(tree *rootfs.Tree, name, source string) error {
	f, err := os.Open(source)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	return tree.Add(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644}, io.Reader(f))
}
