// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"
	"testing"
)

func TestLeadingNameIsOursAndTheRestKubectls(t *testing.T) {
	for _, c := range []struct {
		args, rest []string
		name       string
	}{
		{[]string{"get", "--name", "x"}, []string{"get", "--name", "x"}, "default"},
		{[]string{"--name", "a", "get"}, []string{"get"}, "a"},
		{[]string{"--name=a", "get"}, []string{"get"}, "a"},
		{nil, nil, "default"},
	} {
		name, rest := leadingName("default", c.args)
		if name != c.name || !slices.Equal(rest, c.rest) {
			t.Errorf("%q: %q and %q", c.args, name, rest)
		}
	}
}

func TestEveryVerbIsThere(t *testing.T) {
	root := newRootCommand()
	for _, verb := range []string{"build", "up", "down", "status", "ssh", "kubectl", "exec", "load-image", "cp", "logs", "power-off", "power-on", "nfs", "serve-time"} {
		found, _, err := root.Find([]string{verb})
		if err != nil || found.Name() != verb {
			t.Errorf("%s: %v", verb, err)
		}
	}
}
