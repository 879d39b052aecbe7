// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package shell

import (
	"os/exec"
	"testing"
)

func TestJoinSurvivesAShell(t *testing.T) {
	words := []string{"printf", "%s|", "a b", "it's", "$HOME", "", "*", "`x`", "new\nline"}
	out, err := exec.Command("sh", "-c", Join(words)).Output()
	if err != nil {
		t.Fatal(err)
	}
	if want := "a b|it's|$HOME||*|`x`|new\nline|"; string(out) != want {
		t.Errorf("got %q, want %q", out, want)
	}
}
