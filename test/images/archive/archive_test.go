// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

func testImage(t *testing.T, cmd string) v1.Image {
	t.Helper()
	var layer bytes.Buffer
	tw := tar.NewWriter(&layer)
	if err := tw.WriteHeader(&tar.Header{Name: "etc/", Typeflag: tar.TypeDir, Mode: 0o755}); err != nil {
		t.Fatal(err)
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	img, err := FromLayer(layer.Bytes(), v1.Config{Cmd: []string{cmd}})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func TestWriteNamesTheImageByTagAndByDigest(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x.tar")
	img := testImage(t, "sh")
	if err := Write(file, "localhost/x", "dev", img); err != nil {
		t.Fatal(err)
	}
	digest, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	names := map[string]bool{}
	blobs := 0
	tr := tar.NewReader(f)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if filepath.Dir(h.Name) == "blobs/sha256" && h.Typeflag == tar.TypeReg {
			blobs++
		}
		if h.Name != "index.json" {
			continue
		}
		var index v1.IndexManifest
		if err := json.NewDecoder(tr).Decode(&index); err != nil {
			t.Fatal(err)
		}
		for _, m := range index.Manifests {
			if m.Digest != digest {
				t.Errorf("manifest %s, want %s", m.Digest, digest)
			}
			names[m.Annotations[containerdName]] = true
		}
	}
	if len(names) != 2 || !names["localhost/x:dev"] || !names["localhost/x@"+digest.String()] {
		t.Errorf("names = %v", names)
	}
	if blobs != 3 {
		t.Errorf("%d blobs, want layer, configuration and manifest", blobs)
	}
}

func TestWriteIsReproducible(t *testing.T) {
	dir := t.TempDir()
	for _, n := range []string{"a", "b"} {
		if err := Write(filepath.Join(dir, n), "localhost/x", "dev", testImage(t, "sh")); err != nil {
			t.Fatal(err)
		}
	}
	a, errA := os.ReadFile(filepath.Join(dir, "a"))
	b, errB := os.ReadFile(filepath.Join(dir, "b"))
	if errA != nil || errB != nil || !bytes.Equal(a, b) {
		t.Fatalf("archives differ (%v, %v)", errA, errB)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 2 {
		t.Fatalf("files left behind: %v, %v", left, err)
	}
}
