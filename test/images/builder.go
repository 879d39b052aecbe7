// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"godwit.dev/godwit/test/images/archive"
	"godwit.dev/godwit/test/images/catalog"
	"godwit.dev/godwit/test/images/debian"
)

// keep is how many archives of one image stay in the cache: checkouts of
// different branches share it.
const keep = 3

// builder makes images into a cache directory that it holds locked.
type builder struct {
	dir      string
	module   string
	progress io.Writer
	apt      *debian.Apt
	lock     *os.File
	// cleanup are temporary directories that the images still to be written
	// read from.
	cleanup []string
}

// newBuilder waits for any other build that uses the same cache.
func newBuilder(ctx context.Context, dir, module string, progress io.Writer) (*builder, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	lock, err := lockFile(ctx, filepath.Join(dir, ".lock"), progress)
	if err != nil {
		return nil, err
	}
	return &builder{
		dir: dir, module: module, progress: progress, lock: lock,
		apt: debian.NewApt(filepath.Join(dir, "apt"), catalog.Suite),
	}, nil
}

func (b *builder) close() {
	for _, dir := range b.cleanup {
		_ = os.RemoveAll(dir)
	}
	_ = b.lock.Close()
}

func (b *builder) logf(format string, args ...any) {
	_, _ = fmt.Fprintf(b.progress, "images: "+format+"\n", args...)
}

// build makes the image unless the cache has it, and points NAME.tar to it.
func (b *builder) build(ctx context.Context, name string) error {
	var key string
	var make func(context.Context) (v1.Image, error)
	var err error
	if tags, ours := dockerfileTags[name]; ours {
		key, err = dockerfileKey(ctx, b.module, tags)
		make = func(ctx context.Context) (v1.Image, error) { return b.dockerfileImage(ctx, name, tags) }
	} else {
		image, _ := catalog.Find(name)
		programs, e := b.programs(ctx, image)
		err = e
		files, e := b.filesOf(image)
		if err = errors.Join(err, e); err == nil {
			key, err = workloadKey(image, programs, files)
		}
		make = func(ctx context.Context) (v1.Image, error) { return b.workload(ctx, image, programs, files) }
	}
	if err != nil {
		return err
	}
	file := filepath.Join(b.dir, name+"-"+key+".tar")
	if _, err := os.Stat(file); err == nil {
		b.logf("%s is up to date", name)
	} else {
		b.logf("building %s", name)
		img, err := make(ctx)
		if err != nil {
			return err
		}
		repository := catalog.Prefix + name
		if err := archive.Write(file, repository, catalog.Tag, img); err != nil {
			return err
		}
	}
	if err := link(file, filepath.Join(b.dir, name+".tar")); err != nil {
		return err
	}
	return prune(b.dir, name)
}

// link makes name a symbolic link to file, replacing an older one in one step.
func link(file, name string) error {
	temporary := name + ".new"
	if err := os.Remove(temporary); err != nil && !os.IsNotExist(err) {
		return err
	}
	if err := os.Symlink(filepath.Base(file), temporary); err != nil {
		return err
	}
	return os.Rename(temporary, name)
}

// prune removes the oldest archives of an image, never the one in use.
func prune(dir, name string) error {
	files, err := filepath.Glob(filepath.Join(dir, name+"-*.tar"))
	if err != nil {
		return err
	}
	current, err := filepath.EvalSymlinks(filepath.Join(dir, name+".tar"))
	if err != nil {
		return err
	}
	times := make(map[string]int64)
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil {
			return err
		}
		times[f] = info.ModTime().UnixNano()
		if filepath.Base(f) == filepath.Base(current) {
			times[f] = 1<<63 - 1
		}
	}
	slices.SortFunc(files, func(a, b string) int {
		// Newest first.
		return int(min(1, max(-1, times[b]-times[a])))
	})
	for _, f := range files[min(keep, len(files)):] {
		if err := os.Remove(f); err != nil {
			return err
		}
	}
	return nil
}

// lockFile takes an exclusive lock that ends with the process.
func lockFile(ctx context.Context, name string, progress io.Writer) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
		return f, nil
	}
	_, _ = fmt.Fprintln(progress, "images: waiting for another build that uses the same cache")
	done := make(chan error, 1)
	go func() {
		for {
			err := unix.Flock(int(f.Fd()), unix.LOCK_EX)
			if err != unix.EINTR {
				done <- err
				return
			}
		}
	}()
	select {
	case err := <-done:
		if err != nil {
			_ = f.Close()
			return nil, fmt.Errorf("locking %s: %w", name, err)
		}
		return f, nil
	case <-ctx.Done():
		// The goroutine ends with the process, which is about to.
		return nil, ctx.Err()
	}
}

// moduleRoot is the directory of the module that the command runs in.
func moduleRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("go list -m: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// digest shortens a hash to what file names carry.
func digest(h hash.Hash) string { return hex.EncodeToString(h.Sum(nil))[:16] }

// sources is this program, which is an input of every image.
//
//go:embed *.go archive/*.go debian/*.go rootfs/*.go
var sources embed.FS

// newKey starts a key with what all images depend on: this program, so that a
// change in how images are put together makes them anew.
func newKey(parts ...string) (hash.Hash, error) {
	h := sha256.New()
	err := fs.WalkDir(sources, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasSuffix(name, "_test.go") {
			return err
		}
		data, err := sources.ReadFile(name)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(h, "%s %d\n%s", name, len(data), data)
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, p := range parts {
		_, _ = fmt.Fprintf(h, "\n%d:%s\n", len(p), p)
	}
	return h, nil
}
