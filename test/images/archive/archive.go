// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Package archive writes container images as OCI image archives that
// containerd imports under a name, without a registry.
package archive

import (
	"archive/tar"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

const (
	// containerdName is the annotation by which containerd names an image
	// that it imports.
	containerdName = "io.containerd.image.name"
	// refName is the annotation of the image specification for the same; other
	// tools read that one.
	refName = "org.opencontainers.image.ref.name"
)

// FromLayer returns an image of one layer, the given uncompressed tar archive.
// Layers are not compressed: the archive never leaves the machine, and
// unpacking is slow on an emulated node.
func FromLayer(layer []byte, config v1.Config) (v1.Image, error) {
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err := mutate.AppendLayers(img, static.NewLayer(layer, types.OCIUncompressedLayer))
	if err != nil {
		return nil, err
	}
	file, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.Architecture, file.OS = "amd64", "linux"
	file.Created = v1.Time{Time: time.Unix(0, 0).UTC()}
	file.Config = config
	return mutate.ConfigFile(img, file)
}

// Write stores the image at file under two names: repository:tag, and
// repository@digest as an image has it that was pulled from a registry, so
// that a pod may pin it by digest. An existing file is replaced in one step.
func Write(file, repository, tag string, img v1.Image) error {
	digest, err := img.Digest()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(filepath.Dir(file), ".layout-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	index, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	if err := index.WriteImage(img); err != nil {
		return err
	}
	size, err := img.Size()
	if err != nil {
		return err
	}
	for _, name := range []string{repository + ":" + tag, repository + "@" + digest.String()} {
		err := index.AppendDescriptor(v1.Descriptor{
			MediaType: types.OCIManifestSchema1, Digest: digest, Size: size,
			Platform:    &v1.Platform{OS: "linux", Architecture: "amd64"},
			Annotations: map[string]string{containerdName: name, refName: name},
		})
		if err != nil {
			return fmt.Errorf("naming the image %s: %w", name, err)
		}
	}
	out, err := os.CreateTemp(filepath.Dir(file), ".archive-")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(out.Name()) }()
	err = tarDirectory(out, dir)
	if e := out.Close(); err == nil {
		err = e
	}
	if err != nil {
		return err
	}
	if err := os.Chmod(out.Name(), 0o644); err != nil {
		return err
	}
	return os.Rename(out.Name(), file)
}

// FromLayout returns the single image of an OCI layout directory.
func FromLayout(dir string) (v1.Image, error) {
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return nil, err
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	if n := len(manifest.Manifests); n != 1 {
		return nil, fmt.Errorf("%s holds %d images, want 1", dir, n)
	}
	return index.Image(manifest.Manifests[0].Digest)
}

// tarDirectory writes the directory's files in the order of their names,
// without the machine's owners and times.
func tarDirectory(w io.Writer, dir string) error {
	tw := tar.NewWriter(w)
	root := os.DirFS(dir)
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		name, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return tw.WriteHeader(&tar.Header{Name: name + "/", Typeflag: tar.TypeDir, Mode: 0o755, ModTime: time.Unix(0, 0)})
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		h := &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: info.Size(), ModTime: time.Unix(0, 0)}
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		f, err := root.Open(name)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		_, err = io.Copy(tw, f)
		return err
	})
	if err != nil {
		return err
	}
	return tw.Close()
}
