// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Package toolchain compiles the cluster's parts from their Go modules, each in
// a small generated module, and keeps the binaries in the cache.
package toolchain

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"godwit.dev/godwit/test/cluster/internal/cache"
	"godwit.dev/godwit/test/cluster/internal/host"
	"godwit.dev/godwit/test/cluster/internal/progress"
)

// Program is one binary and the package it is compiled from.
type Program struct {
	// Name is the binary's file name.
	Name string
	// Package is its import path; "." means Tool.Source.
	Package string
}

// Tool is a set of binaries compiled from one module version.
type Tool struct {
	// Name names the artifact in the cache.
	Name string
	// Module and Version are what the generated module requires; an empty
	// Module means that Source needs nothing but the standard library.
	Module, Version string
	// Programs are compiled in this order.
	Programs []Program
	// LinkFlags are passed to the linker.
	LinkFlags []string
	// Tags are build constraints to satisfy.
	Tags []string
	// Cgo turns on cgo; the binaries are linked statically all the same, for
	// the nodes' C library is another one than the host's.
	Cgo bool
	// Staging replaces the requirements "k8s.io/X v0.0.0" of the Kubernetes
	// module, which name folders of its own repository, by the published
	// modules of the same release.
	Staging bool
	// Source is the generated module's own main.go, if it has one.
	Source []byte
}

// Builder compiles tools.
type Builder struct {
	// Cache keeps the binaries.
	Cache *cache.Cache
	// Progress hears of what is compiled.
	Progress *progress.Reporter
	// Log receives the compiler's output.
	Log io.Writer
}

// Key is the cache key of the tool compiled with that version of Go.
func (t Tool) Key(goVersion string) string {
	parts := []string{"1", goVersion, t.Module, t.Version, string(t.Source),
		fmt.Sprint(t.Programs), fmt.Sprint(t.LinkFlags), fmt.Sprint(t.Tags), fmt.Sprint(t.Cgo), fmt.Sprint(t.Staging)}
	return cache.Key(parts...)
}

// Build returns the directory with the tool's binaries, compiling them if the
// cache does not have them.
func (b *Builder) Build(ctx context.Context, t Tool) (string, error) {
	goVersion, err := host.Output(ctx, "go", "env", "GOVERSION", "GOARCH")
	if err != nil {
		return "", err
	}
	return b.Cache.Artifact(ctx, t.Name, t.Key(goVersion), func(dir string) error {
		module, err := os.MkdirTemp("", "godwit-build-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(module)
		if err := b.writeModule(ctx, t, module); err != nil {
			return err
		}
		for _, p := range t.Programs {
			title := fmt.Sprintf("compile %s %s", p.Name, t.Version)
			err := b.Progress.Step(title, func() error {
				return host.Command{Args: t.buildArgs(p, filepath.Join(dir, p.Name)), Dir: module, Env: t.env(), Log: b.Log}.Run(ctx)
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func (b *Builder) writeModule(ctx context.Context, t Tool, dir string) error {
	content := t.goMod()
	if t.Staging {
		replacements, err := b.staging(ctx, t, dir)
		if err != nil {
			return err
		}
		content += replacements
	}
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte(content), 0o644); err != nil {
		return err
	}
	if t.Source == nil {
		return nil
	}
	return os.WriteFile(filepath.Join(dir, "main.go"), t.Source, 0o644)
}

func (t Tool) goMod() string {
	content := fmt.Sprintf("module godwit.dev/tools/%s\n\ngo 1.26\n", t.Name)
	if t.Module != "" {
		content += fmt.Sprintf("\nrequire %s %s\n", t.Module, t.Version)
	}
	return content
}

// staging downloads the module and returns the replacements its go.mod needs.
func (b *Builder) staging(ctx context.Context, t Tool, dir string) (string, error) {
	out, err := host.Command{
		Args: []string{"go", "mod", "download", "-json", t.Module + "@" + t.Version}, Dir: dir, Env: t.env(),
	}.Output(ctx)
	if err != nil {
		return "", err
	}
	var module struct{ GoMod string }
	if err := json.Unmarshal(out, &module); err != nil {
		return "", fmt.Errorf("go mod download: %w", err)
	}
	goMod, err := os.ReadFile(module.GoMod)
	if err != nil {
		return "", err
	}
	return stagingReplacements(string(goMod), t.Version)
}

var stagingRequirement = regexp.MustCompile(`(?m)^\s*(?:require\s+)?(k8s\.io/[a-z0-9-]+) v0\.0\.0(?:\s|$)`)

// stagingReplacements returns one replace line for each requirement of goMod
// on a staging module. Version v1.N.P of Kubernetes publishes them as v0.N.P.
func stagingReplacements(goMod, version string) (string, error) {
	minor, ok := strings.CutPrefix(version, "v1.")
	if !ok {
		return "", fmt.Errorf("%s is not a version of Kubernetes 1", version)
	}
	var lines strings.Builder
	for _, m := range stagingRequirement.FindAllStringSubmatch(goMod, -1) {
		fmt.Fprintf(&lines, "\nreplace %s => %s v0.%s\n", m[1], m[1], minor)
	}
	if lines.Len() == 0 {
		return "", fmt.Errorf("no staging modules in the go.mod of %s", version)
	}
	return lines.String(), nil
}

func (t Tool) env() []string {
	cgo := "0"
	if t.Cgo {
		cgo = "1"
	}
	return []string{"CGO_ENABLED=" + cgo, "GOWORK=off", "GOFLAGS=-mod=mod -buildvcs=false", "GOOS=linux"}
}

func (t Tool) buildArgs(p Program, output string) []string {
	args := []string{"go", "build", "-trimpath", "-o", output}
	if len(t.Tags) > 0 {
		args = append(args, "-tags", strings.Join(t.Tags, ","))
	}
	flags := append([]string{"-s", "-w"}, t.LinkFlags...)
	return append(args, "-ldflags", strings.Join(flags, " "), p.Package)
}
