// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"godwit.dev/godwit/test/cluster/internal/cache"
	"godwit.dev/godwit/test/cluster/internal/progress"
	"godwit.dev/godwit/test/cluster/internal/toolchain"
	"godwit.dev/godwit/test/cluster/pins"
)

// BuildAssets compiles what envtest runs, as far as it is missing, and returns
// a directory with links to it: the API server, etcd and kubectl of a cluster.
func BuildAssets(ctx context.Context, c *cache.Cache, report *progress.Reporter) (string, error) {
	log, err := openBuildLog(c)
	if err != nil {
		return "", err
	}
	defer log.Close()
	tools := &toolchain.Builder{Cache: c, Progress: report, Log: log}
	v := pins.Get()
	kubernetes, err := tools.Build(ctx, toolchain.Kubernetes(v))
	if err != nil {
		return "", err
	}
	etcd, err := tools.Build(ctx, toolchain.Etcd(v))
	if err != nil {
		return "", err
	}
	// The directory's name follows the binaries: runs with other versions have
	// one of their own.
	dir := filepath.Join(c.Root(), "envtest", cache.Key(kubernetes, etcd))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	for _, program := range []string{
		filepath.Join(kubernetes, "kube-apiserver"), filepath.Join(kubernetes, "kubectl"), filepath.Join(etcd, "etcd"),
	} {
		err := os.Symlink(program, filepath.Join(dir, filepath.Base(program)))
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return "", err
		}
	}
	return dir, nil
}
