// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"sync"

	"godwit.dev/godwit/test/cluster/internal/shell"
)

// CopyTo copies the local file to the node, with its permissions, and makes the
// directories above it.
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
	return n.WriteFile(ctx, remote, f, info.Mode().Perm())
}

// WriteFile writes content to a file on the node, which appears with one rename
// once it is whole, and makes the directories above it.
func (n *Node) WriteFile(ctx context.Context, remote string, content io.Reader, mode os.FileMode) error {
	part := remote + ".part"
	line := fmt.Sprintf("mkdir -p %s && cat > %s && chmod %o %s && mv %s %s",
		shell.Quote(path.Dir(remote)), shell.Quote(part), mode, shell.Quote(part), shell.Quote(part), shell.Quote(remote))
	return n.stream(ctx, line, content, nil)
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

// LoadImage imports an OCI or docker archive into containerd, where kubelet
// finds it.
func (n *Node) LoadImage(ctx context.Context, archive string) error {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	return n.stream(ctx, "ctr --namespace k8s.io images import -", f, nil)
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
