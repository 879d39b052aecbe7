// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"godwit.dev/godwit/test/images/catalog"
)

// programs compiles the Go programs of an image and returns them by their path
// in it. The compiler's own cache makes this cheap, so it happens before the
// key is known and the binaries themselves are part of the key.
func (b *builder) programs(ctx context.Context, image catalog.Image) (map[string][]byte, error) {
	binaries := make(map[string][]byte)
	for _, p := range image.Programs {
		compile := b.compile
		if p.Module != "" {
			compile = b.compileOther
		}
		binary, err := compile(ctx, p)
		if err != nil {
			return nil, err
		}
		binaries[p.Path] = binary
	}
	return binaries, nil
}

// compile compiles a program of this repository.
func (b *builder) compile(ctx context.Context, p catalog.Program) ([]byte, error) {
	return b.goBuild(ctx, b.module, p.Package, "-mod=readonly")
}

// compileOther compiles a program of another module, once for each of its versions. A
// module of our own that needs nothing else has the versions of libraries that the
// program was released with; only the directives “replace” of its own are not heeded.
func (b *builder) compileOther(ctx context.Context, p catalog.Program) ([]byte, error) {
	env, err := goEnv(ctx, b.module, "GOVERSION")
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(b.dir, "programs")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	file := filepath.Join(dir, strings.Join([]string{filepath.Base(p.Path), p.Version, env["GOVERSION"]}, "-"))
	if binary, err := os.ReadFile(file); !errors.Is(err, fs.ErrNotExist) {
		return binary, err
	}
	b.logf("compiling %s %s", p.Package, p.Version)
	module, err := os.MkdirTemp(b.dir, ".module-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(module) }()
	text := fmt.Sprintf("module program\n\ngo 1.26\n\nrequire %s %s\n", p.Module, p.Version)
	if err := os.WriteFile(filepath.Join(module, "go.mod"), []byte(text), 0o644); err != nil {
		return nil, err
	}
	binary, err := b.goBuild(ctx, module, p.Package, "-mod=mod")
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(file+".new", binary, 0o644); err != nil {
		return nil, err
	}
	return binary, os.Rename(file+".new", file)
}

// goBuild compiles a package as it is seen from the module in dir.
func (b *builder) goBuild(ctx context.Context, dir, pkg, flags string) ([]byte, error) {
	out, err := os.MkdirTemp(b.dir, ".programs-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(out) }()
	file := filepath.Join(out, "program")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", file, pkg)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOWORK=off", "GOFLAGS="+flags)
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("go build %s: %w\n%s", pkg, err, bytes.TrimSpace(out))
	}
	return os.ReadFile(file)
}
