// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"context"
	"errors"
	"io"
	"os/exec"
	"testing"
	"time"

	clusterclient "godwit.dev/godwit/test/cluster/client"
)

func localShell(t *testing.T) *Shell {
	t.Helper()
	s := newShell(t.Context(), "here", func(ctx context.Context, in io.Reader, out io.Writer) error {
		cmd := exec.CommandContext(ctx, "bash")
		stdin, err := cmd.StdinPipe()
		if err != nil {
			return err
		}
		cmd.Stdout, cmd.Stderr = out, out
		// What the command leaves running may hold its output open.
		cmd.WaitDelay = 100 * time.Millisecond
		if err := cmd.Start(); err != nil {
			return err
		}
		go func() {
			_, _ = io.Copy(stdin, in)
			_ = stdin.Close()
		}()
		return cmd.Wait()
	})
	t.Cleanup(s.Close)
	return s
}

func TestShellRunsOneCommandAfterTheOther(t *testing.T) {
	s := localShell(t)
	for line, want := range map[string]string{
		"echo a; echo b >&2":            "a\nb",
		"printf 'no end of line'":       "no end of line",
		"read -r x || echo nothing":     "nothing",
		"true":                          "",
		"cat <<'E'\nit's \"quoted\"\nE": "it's \"quoted\"",
	} {
		if got, err := s.Run(t.Context(), line); err != nil || got != want {
			t.Errorf("%q: %q, %v", line, got, err)
		}
	}
}

func TestShellOutlivesAFailedCommand(t *testing.T) {
	s := localShell(t)
	out, err := s.Run(t.Context(), "set -e; echo before; (exit 7); echo after")
	var exit *clusterclient.ExitError
	if !errors.As(err, &exit) || exit.Result.ExitCode != 7 || out != "before" || exit.Result.Stderr != "before" {
		t.Errorf("%q, %v", out, err)
	}
	if out, err := s.Run(t.Context(), "exit 3"); err == nil {
		t.Errorf("exit 3: %q", out)
	}
	if out, err := s.Run(t.Context(), "echo still"); err != nil || out != "still" {
		t.Errorf("%q, %v", out, err)
	}
}

func TestShellEndsWithTheContext(t *testing.T) {
	s := localShell(t)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := s.Run(ctx, "exec sleep 60"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
	if _, err := s.Run(t.Context(), "echo again"); err == nil {
		t.Error("a shell that was given up runs commands")
	}
}
