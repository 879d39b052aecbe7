// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package client

import (
	"archive/tar"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"godwit.dev/godwit/test/cluster/internal/shell"
)

// small is the size from which a file does not travel through SSH any more.
const small = 1 << 20

// CopyTo copies the local file to the node, with its permissions, and makes the
// directories above it. It appears with one rename once it is whole.
func (n *Node) CopyTo(ctx context.Context, local, remote string) error {
	f, err := os.Open(local)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() <= small {
		return n.WriteFile(ctx, remote, f, info.Mode().Perm())
	}
	return n.pour(ctx, f, store(remote, info.Mode().Perm(), info.Size()))
}

// WriteFile writes content to a file on the node, which appears with one rename
// once it is whole, and makes the directories above it.
func (n *Node) WriteFile(ctx context.Context, remote string, content io.Reader, mode os.FileMode) error {
	return n.stream(ctx, store(remote, mode, -1), content, nil)
}

// store is the line that makes a file of its standard input. A size that is not
// negative is checked before the file appears.
func store(remote string, mode os.FileMode, size int64) string {
	part := shell.Quote(remote + ".part")
	line := fmt.Sprintf("mkdir -p %s && cat > %s && chmod %o %s", shell.Quote(path.Dir(remote)), part, mode, part)
	if size >= 0 {
		line += fmt.Sprintf(" && test $(stat -c %%s %s) = %d", part, size)
	}
	return fmt.Sprintf("%s && mv %s %s", line, part, shell.Quote(remote))
}

// CopyFrom copies a file of the node to the local path.
func (n *Node) CopyFrom(ctx context.Context, remote, local string) error {
	f, err := os.Create(local)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := n.stream(ctx, "cat "+shell.Quote(remote), nil, f); err != nil {
		return err
	}
	return f.Close()
}

// pourPort is where a node takes large files in, one at a time.
const pourPort = "9999"

// LoadImage imports an OCI or docker archive into containerd, where kubelet
// finds it. One whose names containerd has for the same images already is not imported
// again.
func (n *Node) LoadImage(ctx context.Context, archive string) error {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	want, err := imagesIn(f)
	if err != nil {
		return fmt.Errorf("%s: %w", archive, err)
	}
	if len(want) > 0 {
		have, err := n.Output(ctx, "ctr --namespace k8s.io images list | awk '{ print $1, $3 }'")
		if err != nil {
			return err
		}
		if lines := strings.Split(have, "\n"); !slices.ContainsFunc(want, func(w string) bool { return !slices.Contains(lines, w) }) {
			return nil
		}
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return n.pour(ctx, f, "ctr --namespace k8s.io images import -")
}

// imagesIn returns the images of an OCI archive, each as its name and its manifest's
// digest. There are none in an archive of docker's.
func imagesIn(archive io.Reader) ([]string, error) {
	var index struct {
		Manifests []struct {
			Digest      string
			Annotations map[string]string
		}
	}
	for t := tar.NewReader(archive); ; {
		h, err := t.Next()
		switch {
		case errors.Is(err, io.EOF):
			return nil, nil
		case err != nil:
			return nil, err
		case h.Name != "index.json":
			continue
		}
		if err := json.NewDecoder(t).Decode(&index); err != nil {
			return nil, fmt.Errorf("%s: %w", h.Name, err)
		}
		var all []string
		for _, m := range index.Manifests {
			all = append(all, m.Annotations["io.containerd.image.name"]+" "+m.Digest)
		}
		return all, nil
	}
}

// pour runs a line of shell on the node with content as its standard input. The
// content travels over plain TCP: enciphering tens of megabytes takes an
// emulated processor minutes.
func (n *Node) pour(ctx context.Context, content io.Reader, line string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		line := "set -o pipefail; socat -u -b 1048576 TCP-LISTEN:" + pourPort + ",reuseaddr,accept-timeout=60 STDOUT | { " + line + "; }"
		done <- n.stream(ctx, "bash -c "+shell.Quote(line), nil, nil)
	}()
	if err := n.feed(ctx, content, done); err != nil {
		return err
	}
	return <-done
}

// feed sends content to the port as soon as the node listens there. A line that
// ends before says why.
func (n *Node) feed(ctx context.Context, content io.Reader, done chan error) error {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := n.cluster.dial(ctx, "tcp", net.JoinHostPort(n.IP, pourPort))
		if err == nil {
			_, err = io.Copy(conn, content)
			return errors.Join(err, conn.Close())
		}
		select {
		case err := <-done:
			return cmp.Or(err, errors.New("the receiver ended before it began"))
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// LoadImages imports archives into containerd on all nodes, the nodes at the
// same time.
func (c *Cluster) LoadImages(ctx context.Context, archives ...string) error {
	var wg sync.WaitGroup
	nodes := c.Nodes()
	errs := make([]error, len(nodes))
	for i, n := range nodes {
		wg.Go(func() {
			for _, a := range archives {
				if err := n.LoadImage(ctx, a); err != nil {
					errs[i] = fmt.Errorf("import %s: %w", a, err)
					return
				}
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// stream is Stream with another exit code than 0 as an *ExitError.
func (n *Node) stream(ctx context.Context, line string, stdin io.Reader, stdout io.Writer) error {
	var stderr strings.Builder
	code, err := n.Stream(ctx, line, stdin, stdout, &stderr)
	if err != nil {
		return err
	}
	if code != 0 {
		return &ExitError{Node: n.Name, Command: line, Result: Result{Stderr: stderr.String(), ExitCode: code}}
	}
	return nil
}
