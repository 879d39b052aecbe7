// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"godwit.dev/godwit/test/cluster/internal/cache"
	"godwit.dev/godwit/test/cluster/internal/host"
	"godwit.dev/godwit/test/cluster/internal/image"
	"godwit.dev/godwit/test/cluster/internal/progress"
	"godwit.dev/godwit/test/cluster/internal/toolchain"
	"godwit.dev/godwit/test/cluster/pins"
)

// Artifacts are the cached parts of every cluster.
type Artifacts struct {
	// Kubernetes, Etcd and CoreDNS are directories of host programs.
	Kubernetes, Etcd, CoreDNS string
	// Image is what the nodes boot from.
	Image image.Image
}

// BuildArtifacts fills the cache: it installs the host's packages, compiles the
// programs and makes the nodes' image, as far as they are missing.
func BuildArtifacts(ctx context.Context, c *cache.Cache, report *progress.Reporter) (Artifacts, error) {
	log, err := openBuildLog(c)
	if err != nil {
		return Artifacts{}, err
	}
	defer log.Close()
	if err := installPackages(ctx, c, report, log); err != nil {
		return Artifacts{}, err
	}

	v := pins.Get()
	tools := &toolchain.Builder{Cache: c, Progress: report, Log: log}
	images := &image.Builder{Cache: c, Progress: report, Log: log, Versions: v}
	var out Artifacts
	var in image.Inputs

	group, groupCtx := errgroup.WithContext(ctx)
	// Debian's installation mostly waits for the network and the disk, so it
	// runs beside the compiler; the compilations use all processors each, so
	// they run one after the other.
	group.Go(func() error {
		_, err := images.Debian(groupCtx)
		return err
	})
	group.Go(func() error {
		for _, b := range []struct {
			tool toolchain.Tool
			into *string
		}{
			{toolchain.GuestInit(), &in.Init},
			{toolchain.Pause(), &in.Pause},
			{toolchain.Steady(), &in.Steady},
			{toolchain.CNIPlugins(v), &in.CNI},
			{toolchain.Runc(v), &in.Runc},
			{toolchain.Etcd(v), &out.Etcd},
			{toolchain.Containerd(v), &in.Containerd},
			{toolchain.Kubernetes(v), &in.Kubernetes},
			{toolchain.CoreDNS(v), &out.CoreDNS},
		} {
			dir, err := tools.Build(groupCtx, b.tool)
			if err != nil {
				return err
			}
			*b.into = dir
		}
		return nil
	})
	if err := group.Wait(); err != nil {
		return Artifacts{}, err
	}
	out.Kubernetes = in.Kubernetes
	out.Image, err = images.Build(ctx, in)
	return out, err
}

// openBuildLog opens the file that keeps what the builds print.
func openBuildLog(c *cache.Cache) (*os.File, error) {
	dir := filepath.Join(c.Root(), "logs")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	return os.Create(filepath.Join(dir, "build-"+time.Now().UTC().Format("20060102T150405.000")+".log"))
}

func installPackages(ctx context.Context, c *cache.Cache, report *progress.Reporter, log io.Writer) error {
	lock, err := c.Lock(ctx, "packages")
	if err != nil {
		return err
	}
	defer lock.Unlock()
	missing, err := host.MissingPackages(ctx)
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		if err := report.Step("install host packages: "+strings.Join(missing, " "), func() error {
			return host.InstallPackages(ctx, log, missing)
		}); err != nil {
			return err
		}
	}
	old, err := host.OldEmulator(ctx)
	if err != nil || !old {
		return err
	}
	// The old one does as well, only slower.
	_ = report.Step("install a newer emulator", func() error { return host.UpgradeEmulator(ctx, log) })
	return nil
}
