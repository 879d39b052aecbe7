// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package host

import (
	"errors"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

func TestMissingCountsOnlyInstalledPackages(t *testing.T) {
	listing := "cpio installed\nxz-utils config-files\n"
	got := missing([]string{"cpio", "xz-utils", "gcc"}, listing)
	if want := []string{"xz-utils", "gcc"}; !slices.Equal(got, want) {
		t.Errorf("missing = %v, want %v", got, want)
	}
}

func TestCommandErrorShowsTheEndOfTheOutput(t *testing.T) {
	err := Run(t.Context(), "sh", "-c", "seq 1 3000; echo reason >&2; exit 3")
	var command *CommandError
	if !errors.As(err, &command) {
		t.Fatalf("error %T, want *CommandError", err)
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 3 {
		t.Errorf("cause %v, want exit code 3", command.Err)
	}
	if !strings.HasSuffix(command.Tail, "reason") || len(command.Tail) > 4096 {
		t.Errorf("tail has %d bytes and ends with %q", len(command.Tail), command.Tail[len(command.Tail)-10:])
	}
}

func TestOutputKeepsErrorsApart(t *testing.T) {
	out, err := Output(t.Context(), "sh", "-c", "echo out; echo err >&2")
	if err != nil || out != "out\n" {
		t.Errorf("Output = %q, %v", out, err)
	}
}
