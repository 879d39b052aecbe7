// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"godwit.dev/godwit/test/images/archive"
	"godwit.dev/godwit/test/images/catalog"
)

// contextPaths are the files and directories that the Dockerfile copies. A
// test keeps them equal.
var contextPaths = []string{"go.mod", "go.sum", "api", "cmd", "controllers", "internal", "node-agent"}

// dockerfileTags are the build tags of the images that the Dockerfile makes.
var dockerfileTags = map[string]string{catalog.Godwit: "", catalog.Failpoints: "failpoints"}

// dockerfileKey is a hash of everything that our own image is made from.
func dockerfileKey(ctx context.Context, module, tags string) (string, error) {
	version, err := goEnv(ctx, module, "GOVERSION")
	if err != nil {
		return "", err
	}
	h, err := newKey("dockerfile", version["GOVERSION"], tags)
	if err != nil {
		return "", err
	}
	for _, top := range append([]string{"Dockerfile", ".dockerignore"}, contextPaths...) {
		err := filepath.WalkDir(filepath.Join(module, top), func(p string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case d.IsDir() && d.Name() == "testdata":
				return fs.SkipDir
			case d.IsDir() || strings.HasSuffix(p, "_test.go"):
				return nil
			}
			data, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			name, err := filepath.Rel(module, p)
			if err != nil {
				return err
			}
			_, _ = fmt.Fprintf(h, "%s %d\n", name, len(data))
			_, _ = h.Write(data)
			return nil
		})
		if err != nil {
			return "", err
		}
	}
	return digest(h), nil
}

// dockerfileImage runs the repository's Dockerfile with buildah.
//
// The base image of its build stage is replaced by a stand-in, since there is
// no registry to take it from: a small shell and this machine's own Go
// toolchain. The final stage starts from nothing, so what ends up in the image
// is what the Dockerfile makes and no more. The machine's module cache and a
// build cache of our own take the place of the cache mounts.
func (b *builder) dockerfileImage(ctx context.Context, image, tags string) (v1.Image, error) {
	if _, err := exec.LookPath("buildah"); err != nil {
		return nil, errors.New("buildah is not installed (on Debian: apt-get install buildah)")
	}
	env, err := goEnv(ctx, b.module, "GOROOT", "GOMODCACHE", "GOPROXY")
	if err != nil {
		return nil, err
	}
	base, err := b.golangStandIn(ctx)
	if err != nil {
		return nil, err
	}
	h, err := newBuildah(filepath.Join(b.dir, "buildah"), b.progress)
	if err != nil {
		return nil, err
	}
	goBuild := filepath.Join(b.dir, "go-build")
	for _, d := range []string{goBuild, env["GOMODCACHE"]} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, err
		}
	}
	limits, err := limitFlags()
	if err != nil {
		return nil, err
	}
	name := catalog.Ref(image)
	err = h.run(ctx, "build", append(limits,
		"--from", base, "--pull-never", "--isolation", "chroot", "--network", "host",
		"--volume", env["GOROOT"]+":/usr/local/go:ro",
		"--volume", env["GOMODCACHE"]+":/go/pkg/mod",
		"--volume", goBuild+":/root/.cache/go-build",
		"--build-arg", "GOPROXY="+env["GOPROXY"],
		"--build-arg", "TAGS="+tags,
		// Without the time of the build, equal inputs give an equal digest.
		"--timestamp", "0",
		"--format", "oci", "--tag", name, "--file", filepath.Join(b.module, "Dockerfile"), b.module)...)
	if err != nil {
		return nil, err
	}
	layout, err := os.MkdirTemp(b.dir, ".layout-")
	if err != nil {
		return nil, err
	}
	// The image is read from there when its archive is written.
	b.cleanup = append(b.cleanup, layout)
	if err := h.run(ctx, "push", "--format", "oci", "--disable-compression", name, "oci:"+layout+":"+catalog.Tag); err != nil {
		return nil, err
	}
	// Images of earlier builds that no name points to any more.
	if err := h.run(ctx, "rmi", "--prune", "--force"); err != nil {
		return nil, err
	}
	return archive.FromLayout(layout)
}

// limitFlags are resource limits of a build that this process may set. Those
// that buildah takes by itself can be higher than the machine allows.
func limitFlags() ([]string, error) {
	var flags []string
	for _, limit := range []struct {
		name     string
		resource int
		most     uint64
	}{
		{"nofile", unix.RLIMIT_NOFILE, 65536},
		// Older versions of buildah have lowered their own to this by then.
		{"nproc", unix.RLIMIT_NPROC, 32768},
	} {
		var l unix.Rlimit
		if err := unix.Getrlimit(limit.resource, &l); err != nil {
			return nil, fmt.Errorf("getrlimit %s: %w", limit.name, err)
		}
		n := min(l.Max, limit.most)
		flags = append(flags, fmt.Sprintf("--ulimit=%s=%d:%d", limit.name, n, n))
	}
	return flags, nil
}

// golangStandIn makes the base image of the build stage and returns how
// buildah is to be told of it.
func (b *builder) golangStandIn(ctx context.Context) (string, error) {
	const reference = "golang"
	toolbox, ok := catalog.Find(catalog.Toolbox)
	if !ok {
		return "", errors.New("the catalog has no toolbox")
	}
	certificates := "/etc/ssl/certs/ca-certificates.crt"
	data, err := os.ReadFile(certificates)
	if err != nil {
		return "", fmt.Errorf("%w (on Debian: apt-get install ca-certificates)", err)
	}
	toolboxKey, err := workloadKey(toolbox, nil, nil)
	if err != nil {
		return "", err
	}
	h, err := newKey(toolboxKey, string(data))
	if err != nil {
		return "", err
	}
	file := filepath.Join(b.dir, reference+"-"+digest(h)+".tar")
	name := "oci-archive:" + file + ":" + catalog.Ref(reference)
	if _, err := os.Stat(file); err == nil {
		return name, nil
	}
	tree, err := b.tree(ctx, toolbox)
	if err != nil {
		return "", err
	}
	if err := copyFile(tree, certificates, certificates); err != nil {
		return "", err
	}
	for _, dir := range []string{"/usr/local/go", "/go/pkg/mod", "/root/.cache/go-build"} {
		tree.Dir(dir, 0o755, 0)
	}
	layer, err := tree.Tar()
	if err != nil {
		return "", err
	}
	img, err := archive.FromLayer(layer, v1.Config{Env: []string{
		"PATH=/go/bin:/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"GOPATH=/go", "GOTOOLCHAIN=local",
	}})
	if err != nil {
		return "", err
	}
	if err := archive.Write(file, catalog.Prefix+reference, catalog.Tag, img); err != nil {
		return "", err
	}
	if err := link(file, filepath.Join(b.dir, reference+".tar")); err != nil {
		return "", err
	}
	return name, prune(b.dir, reference)
}

// goEnv asks the toolchain that the module uses for its settings.
func goEnv(ctx context.Context, module string, names ...string) (map[string]string, error) {
	cmd := exec.CommandContext(ctx, "go", append([]string{"env"}, names...)...)
	cmd.Dir = module
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go env: %w", err)
	}
	lines := strings.Split(strings.TrimRight(string(out), "\n"), "\n")
	if len(lines) != len(names) {
		return nil, fmt.Errorf("go env gave %d lines for %d settings", len(lines), len(names))
	}
	values := make(map[string]string)
	for i, n := range names {
		values[n] = lines[i]
	}
	return values, nil
}

// buildah is the program of that name with storage of our own, so that the
// machine's own images and settings have no part in a build.
type buildah struct {
	flags    []string
	env      []string
	progress io.Writer
}

func newBuildah(dir string, progress io.Writer) (*buildah, error) {
	for _, d := range []string{"storage", "run", "tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			return nil, err
		}
	}
	driver, err := storageDriver(dir)
	if err != nil {
		return nil, err
	}
	files := map[string]string{
		"registries.conf": "",
		"storage.conf":    "[storage]\ndriver = \"" + driver + "\"\n",
		"policy.json":     `{"default": [{"type": "insecureAcceptAnything"}]}` + "\n",
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			return nil, err
		}
	}
	return &buildah{
		flags: []string{
			"--root", filepath.Join(dir, "storage"), "--runroot", filepath.Join(dir, "run"),
			"--storage-driver", driver,
		},
		env: append(os.Environ(),
			"CONTAINERS_REGISTRIES_CONF="+filepath.Join(dir, "registries.conf"),
			"CONTAINERS_STORAGE_CONF="+filepath.Join(dir, "storage.conf"),
			"TMPDIR="+filepath.Join(dir, "tmp"),
		),
		progress: progress,
	}, nil
}

// storageDriver is overlay where an overlay can be mounted, which is not on
// top of another overlay, the root file system of a container for instance.
func storageDriver(dir string) (string, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return "", fmt.Errorf("statfs %s: %w", dir, err)
	}
	if st.Type == unix.OVERLAYFS_SUPER_MAGIC {
		return "vfs", nil
	}
	return "overlay", nil
}

// run runs one buildah command. What it prints is shown as it comes, and its
// end is part of the error.
func (h *buildah) run(ctx context.Context, verb string, args ...string) error {
	flags := append([]string{verb}, h.flags...)
	if verb == "build" || verb == "push" {
		policy := filepath.Join(filepath.Dir(h.flags[1]), "policy.json")
		flags = append(flags, "--signature-policy", policy)
	}
	cmd := exec.CommandContext(ctx, "buildah", append(flags, args...)...)
	cmd.Env = h.env
	var out bytes.Buffer
	cmd.Stdout = io.MultiWriter(&out, h.progress)
	cmd.Stderr = cmd.Stdout
	if err := cmd.Run(); err != nil {
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		return fmt.Errorf("buildah %s: %w\n%s", verb, err, strings.Join(lines[max(0, len(lines)-20):], "\n"))
	}
	return nil
}
