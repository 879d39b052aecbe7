// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package client

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func first(c *Cluster) *Node { return c.Nodes()[0] }

func TestRunKeepsArgumentsAndOutputs(t *testing.T) {
	c, _ := newFakeCluster(t)
	result, err := first(c).Run(t.Context(), "printf", "%s|", "a b", "$HOME", "it's")
	if err != nil || result.Stdout != "a b|$HOME|it's|" {
		t.Errorf("Run = %+v, %v", result, err)
	}
	result, err = first(c).RunShell(t.Context(), "echo out; echo err >&2; exit 7")
	var exit *ExitError
	if !errors.As(err, &exit) || exit.Result.ExitCode != 7 {
		t.Fatalf("error %v, want exit code 7", err)
	}
	if result.Stdout != "out\n" || result.Stderr != "err\n" || !strings.Contains(err.Error(), "err") {
		t.Errorf("result %+v, error %v", result, err)
	}
}

func TestRunEndsWithTheContext(t *testing.T) {
	c, _ := newFakeCluster(t)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := first(c).RunShell(ctx, "exec sleep 60"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want a deadline error", err)
	}
}

func TestConnectionIsSharedAndMadeAnew(t *testing.T) {
	c, f := newFakeCluster(t)
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			if _, err := first(c).Run(t.Context(), "true"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := f.connections.Load(); got != 1 {
		t.Errorf("%d connections, want 1", got)
	}
	// The node went away and came back.
	f.last.Load().Close()
	if err := first(c).conn.Wait(); err == nil {
		t.Log("the connection ended in peace")
	}
	if _, err := first(c).Run(t.Context(), "true"); err != nil {
		t.Errorf("after the connection was lost: %v", err)
	}
	if got := f.connections.Load(); got != 2 {
		t.Errorf("%d connections, want 2", got)
	}
}

func TestFilesTravelBothWays(t *testing.T) {
	c, _ := newFakeCluster(t)
	dir := t.TempDir()
	local, remote, back := filepath.Join(dir, "l"), filepath.Join(dir, "new dir", "it's"), filepath.Join(dir, "b")
	content := strings.Repeat("\x00content\n", 1<<16)
	if err := os.WriteFile(local, []byte(content), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := first(c).CopyTo(t.Context(), local, remote); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(remote)
	if err != nil || info.Mode().Perm() != 0o750 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := first(c).CopyFrom(t.Context(), remote, back); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(back); err != nil || string(got) != content {
		t.Errorf("%d bytes came back, %v", len(got), err)
	}
	if err := first(c).CopyFrom(t.Context(), remote+"x", back); err == nil {
		t.Error("a file that is not there was copied")
	}
}

func TestUnknownHostKeyIsRefused(t *testing.T) {
	c, _ := newFakeCluster(t)
	other, _ := newFakeCluster(t)
	c.dial = other.dial
	if _, err := first(c).Run(t.Context(), "true"); err == nil {
		t.Error("another host's key was accepted")
	}
}

func TestFromEnvironmentWantsTheCluster(t *testing.T) {
	t.Setenv(EnvDir, "")
	if _, err := FromEnvironment(); err == nil || !strings.Contains(err.Error(), EnvDir) {
		t.Errorf("error %v", err)
	}
}

func TestImagesInAnArchive(t *testing.T) {
	archive := func(name, content string) io.Reader {
		var out bytes.Buffer
		w := tar.NewWriter(&out)
		for _, f := range []struct{ name, content string }{{"blobs/sha256/a", "layer"}, {name, content}, {"oci-layout", "{}"}} {
			if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: f.name, Size: int64(len(f.content)), Mode: 0o600}); err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write([]byte(f.content)); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return &out
	}
	got, err := imagesIn(archive("index.json", `{"manifests": [{"digest": "sha256:1", "annotations": {"io.containerd.image.name": "localhost/x:dev"}}]}`))
	if err != nil || !slices.Equal(got, []string{"localhost/x:dev sha256:1"}) {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := imagesIn(archive("manifest.json", "[]")); err != nil || got != nil {
		t.Errorf("docker's: %q, %v", got, err)
	}
	if _, err := imagesIn(archive("index.json", "none")); err == nil {
		t.Error("an index that is no JSON was read")
	}
}
