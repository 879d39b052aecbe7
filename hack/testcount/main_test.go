// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestCounts(t *testing.T) {
	for name, test := range map[string]struct {
		events []string
		want   string
	}{
		"nothing": {nil, "0 passed, 0 failed"},
		"passes and a skip": {[]string{
			`{"Action":"run","Package":"p","Test":"A"}`,
			`{"Action":"pass","Package":"p","Test":"A/sub"}`,
			`{"Action":"pass","Package":"p","Test":"A"}`,
			`{"Action":"skip","Package":"p","Test":"B"}`,
			`{"Action":"skip","Package":"without-tests"}`,
			`{"Action":"pass","Package":"p"}`,
		}, "2 passed, 0 failed, 1 skipped"},
		"a failed test is counted once, though its package fails too": {[]string{
			`{"Action":"fail","Package":"p","Test":"A"}`,
			`{"Action":"fail","Package":"p"}`,
		}, "0 passed, 1 failed"},
		"a package that fails by itself": {[]string{
			`{"Action":"pass","Package":"p","Test":"A"}`,
			`not an event`,
			`{"Action":"fail","Package":"q"}`,
		}, "1 passed, 1 failed"},
	} {
		t.Run(name, func(t *testing.T) {
			var c counts
			if err := c.add(strings.NewReader(strings.Join(test.events, "\n"))); err != nil {
				t.Fatal(err)
			}
			if got := c.String(); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestFailuresAreNamed(t *testing.T) {
	var c counts
	if err := errors.Join(
		c.add(strings.NewReader(`{"Action":"output","Package":"p","Test":"A","Output":"a.go:1: too much\n"}
{"Action":"output","Package":"p","Test":"B","Output":"fine\n"}
{"Action":"pass","Package":"p","Test":"B"}
{"Action":"fail","Package":"p","Test":"A"}`)),
		c.addArray(strings.NewReader(`[{"run": "agent.kill", "passed": false, "problems": ["left over: x"]}]`)),
	); err != nil {
		t.Fatal(err)
	}
	want := []string{"FAILED: p A\n    a.go:1: too much", "FAILED: agent.kill\n    left over: x"}
	if !slices.Equal(c.failures, want) {
		t.Errorf("got %q, want %q", c.failures, want)
	}
}

func TestCountsArrays(t *testing.T) {
	var c counts
	if err := c.addArray(strings.NewReader(`[{"fault": "x", "passed": true}, {"passed": false}, {"passed": false, "skipped": true}]`)); err != nil || c.passed != 1 || c.failed != 1 || c.skipped != 1 {
		t.Errorf("%+v, %v", c, err)
	}
}
