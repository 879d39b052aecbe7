// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package host

import (
	"slices"
	"strings"
	"syscall"
	"testing"
)

func TestExitErrorMessage(t *testing.T) {
	runc := []string{"/usr/sbin/runc", "--root", "/run/x", "checkpoint", "--image-path", "/i", "id"}
	for _, c := range []struct {
		err  ExitError
		want string
	}{
		{ExitError{Args: runc, Code: 1}, "runc checkpoint: exit code 1"},
		{ExitError{Args: runc, Code: 1, Stderr: " no\n"}, "runc checkpoint: exit code 1: no"},
		{ExitError{Args: runc, Code: 1, Stderr: "no", Log: []string{"a", "b"}}, "runc checkpoint: exit code 1: a; b"},
		{ExitError{Args: []string{"criu", "check"}, Code: -1, Signal: syscall.SIGKILL}, "criu check: ended by killed"},
		{ExitError{Args: []string{"criu", "--version"}, Code: 2}, "criu: exit code 2"},
	} {
		if got := c.err.Error(); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
	long := ExitError{Args: runc, Code: 1, Stderr: strings.Repeat("x", 1<<20) + "the end"}
	if got := long.Error(); len(got) > 2<<10 || !strings.HasSuffix(got, "the end") {
		t.Errorf("a message of %d bytes", len(got))
	}
}

func TestLogErrors(t *testing.T) {
	log := "(00.1) one\n(00.2) Error (criu/x.c:1): two\n(00.3) three\n(00.4) Error: four\n(00.5) five\n"
	for _, c := range []struct {
		log   string
		after int
		want  []string
	}{
		{log, 0, []string{"(00.2) Error (criu/x.c:1): two"}},
		{log, 2, []string{"(00.2) Error (criu/x.c:1): two", "(00.3) three", "(00.4) Error: four"}},
		{log, 9, []string{"(00.2) Error (criu/x.c:1): two", "(00.3) three", "(00.4) Error: four", "(00.5) five"}},
		{"all is well\n", 3, nil},
		{"", 3, nil},
	} {
		if got := LogErrors([]byte(c.log), c.after); !slices.Equal(got, c.want) {
			t.Errorf("after %d: %q, want %q", c.after, got, c.want)
		}
	}
}
