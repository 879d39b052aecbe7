// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
)

// KubectlRun runs kubectl as a user would and returns its standard output. The
// error holds what it wrote to its standard error.
func (h *Harness) KubectlRun(ctx context.Context, args ...string) (string, error) {
	return h.run(ctx, nil, h.Kubectl, args...)
}

// KubectlApply runs "kubectl apply" on a manifest.
func (h *Harness) KubectlApply(ctx context.Context, manifest string) (string, error) {
	return h.run(ctx, strings.NewReader(manifest), h.Kubectl, "apply", "-f", "-")
}

// HelmRun runs helm; its output goes to the log as well.
func (h *Harness) HelmRun(ctx context.Context, args ...string) (string, error) {
	out, err := h.run(ctx, nil, h.Helm, args...)
	fmt.Fprint(h.Log, out)
	return out, err
}

func (h *Harness) run(ctx context.Context, stdin io.Reader, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+h.Kubeconfig)
	cmd.Stdin = stdin
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s %s: %w: %s", program, strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}
