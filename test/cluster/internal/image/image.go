// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Package image makes what the nodes boot from: a Debian root file system on a
// read-only base disk, the kernel, a small initial RAM file system, and the
// archive of the sandbox image.
package image

import (
	"context"
	"embed"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"godwit.dev/godwit/test/cluster/internal/cache"
	"godwit.dev/godwit/test/cluster/internal/host"
	"godwit.dev/godwit/test/cluster/internal/progress"
	"godwit.dev/godwit/test/cluster/pins"
)

// diskSize is the size of the nodes' disks; the files are sparse.
const diskSize = "24G"

// files are written over the root file system of every node.
//
//go:embed all:files
var files embed.FS

// Inputs are the directories of binaries that go into the image.
type Inputs struct {
	// Kubernetes, Containerd, Runc and CNI hold the nodes' programs.
	Kubernetes, Containerd, Runc, CNI string
	// Init, Pause and Steady hold the guest programs.
	Init, Pause, Steady string
}

// Image is what a node boots from.
type Image struct {
	// Disk is the base of the nodes' disks, a raw ext4 file system.
	Disk string
	// Kernel and InitRD are passed to the virtual machine.
	Kernel, InitRD string
}

// Builder makes images.
type Builder struct {
	// Cache keeps the results.
	Cache *cache.Cache
	// Progress hears of each step.
	Progress *progress.Reporter
	// Log receives the output of the commands.
	Log io.Writer
	// Versions says which Debian, and which kernel and CRIU to insist on.
	Versions pins.Versions
}

// Debian returns the directory of the pristine Debian tree.
func (b *Builder) Debian(ctx context.Context) (string, error) {
	v := b.Versions
	key := cache.Key("1", v.DebianSuite, v.CRIU, v.KernelSeries, strings.Join(packages, ","))
	return b.Cache.Artifact(ctx, "debian", key, func(dir string) error {
		return b.Progress.Step("install Debian "+v.DebianSuite+" for the nodes", func() error {
			tree := filepath.Join(dir, "root")
			err := host.Command{
				// debootstrap mounts proc in the tree. In a mount namespace of its
				// own that ends with it, however it ends, and never stands in the
				// way of removing the tree.
				Args: []string{"unshare", "--mount", "debootstrap", "--variant=minbase", "--include=" + strings.Join(packages, ","), v.DebianSuite, tree},
				Env:  []string{"DEBIAN_FRONTEND=noninteractive"}, Log: b.Log,
			}.Run(ctx)
			if err != nil {
				return err
			}
			return b.check(ctx, tree)
		})
	})
}

// check insists on what has to be the same on every machine and is not pinned
// by the suite.
func (b *Builder) check(ctx context.Context, tree string) error {
	out, err := host.Output(ctx, "chroot", tree, "criu", "--version")
	if err != nil {
		return err
	}
	if got := strings.TrimSpace(strings.TrimPrefix(out, "Version:")); got != b.Versions.CRIU {
		return fmt.Errorf("Debian %s has CRIU %s, the pinned version is %s", b.Versions.DebianSuite, got, b.Versions.CRIU)
	}
	kernel, err := kernelVersion(tree)
	if err != nil {
		return err
	}
	if !strings.HasPrefix(kernel, b.Versions.KernelSeries+".") {
		return fmt.Errorf("Debian %s has kernel %s, the pinned series is %s", b.Versions.DebianSuite, kernel, b.Versions.KernelSeries)
	}
	return nil
}

// kernelVersion returns the version of the only kernel in tree.
func kernelVersion(tree string) (string, error) {
	entries, err := os.ReadDir(filepath.Join(tree, "usr/lib/modules"))
	if err != nil {
		return "", err
	}
	if len(entries) != 1 {
		return "", fmt.Errorf("%d kernels installed, want 1", len(entries))
	}
	return entries[0].Name(), nil
}

// Build returns the image made of inputs.
func (b *Builder) Build(ctx context.Context, in Inputs) (Image, error) {
	debian, err := b.Debian(ctx)
	if err != nil {
		return Image{}, err
	}
	own, err := filesDigest()
	if err != nil {
		return Image{}, err
	}
	// The directories' names carry the keys of what is in them.
	key := cache.Key("1", debian, in.Kubernetes, in.Containerd, in.Runc, in.CNI, in.Init, in.Pause, in.Steady, own,
		fmt.Sprint(enabled, masked, dropped), diskSize)
	dir, err := b.Cache.Artifact(ctx, "node", key, func(dir string) error {
		return b.Progress.Step("make the nodes' base disk", func() error { return b.build(ctx, debian, in, dir) })
	})
	if err != nil {
		return Image{}, err
	}
	return Image{
		Disk:   filepath.Join(dir, "disk.raw"),
		Kernel: filepath.Join(dir, "vmlinuz"),
		InitRD: filepath.Join(dir, "initrd"),
	}, nil
}

// filesDigest hashes the embedded files.
func filesDigest() (string, error) {
	var parts []string
	err := fs.WalkDir(files, "files", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := files.ReadFile(path)
		parts = append(parts, path, string(content))
		return err
	})
	return cache.Key(parts...), err
}

func (b *Builder) build(ctx context.Context, debian string, in Inputs, dir string) error {
	tree := filepath.Join(dir, "root")
	if err := (host.Command{Args: []string{"cp", "-a", "--reflink=auto", filepath.Join(debian, "root"), tree}, Log: b.Log}).Run(ctx); err != nil {
		return err
	}
	kernel, err := kernelVersion(tree)
	if err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(tree, "boot/vmlinuz-"+kernel), filepath.Join(dir, "vmlinuz")); err != nil {
		return err
	}
	if err := b.prepareModules(ctx, tree, kernel); err != nil {
		return err
	}
	if err := writeInitRD(filepath.Join(dir, "initrd"), filepath.Join(in.Init, "init"), tree, kernel); err != nil {
		return err
	}
	if err := populate(tree, in); err != nil {
		return err
	}
	if err := writePauseArchive(filepath.Join(tree, "usr/local/share/godwit/pause.tar"), filepath.Join(in.Pause, "pause")); err != nil {
		return err
	}
	disk := filepath.Join(dir, "disk.raw")
	err = host.Command{Args: []string{
		"mke2fs", "-q", "-t", "ext4", "-L", "godwit-root", "-m", "0",
		"-E", "lazy_itable_init=1,root_owner=0:0", "-d", tree, disk, diskSize,
	}, Log: b.Log}.Run(ctx)
	if err != nil {
		return err
	}
	return os.RemoveAll(tree)
}

// prepareModules unpacks the kernel's modules: an emulated processor takes
// seconds to do it at each boot.
func (b *Builder) prepareModules(ctx context.Context, tree, kernel string) error {
	var packed []string
	dir := filepath.Join(tree, "usr/lib/modules", kernel)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".ko.xz") {
			packed = append(packed, path)
		}
		return err
	})
	if err != nil {
		return err
	}
	sort.Strings(packed)
	if len(packed) > 0 {
		list := strings.NewReader(strings.Join(packed, "\x00"))
		if err := (host.Command{Args: []string{"xargs", "-0", "xz", "-d"}, Stdin: list, Log: b.Log}).Run(ctx); err != nil {
			return err
		}
	}
	return host.Command{Args: []string{"chroot", tree, "depmod", kernel}, Log: b.Log}.Run(ctx)
}
