// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"testing"
	"time"

	"godwit.dev/godwit/node-agent/runtime"
)

func TestLimitFormat(t *testing.T) {
	const ms = time.Millisecond
	for text, want := range map[string]runtime.CPULimit{
		"max 100000\n":  {Period: 100 * ms},
		"50000 100000":  {Quota: 50 * ms, Period: 100 * ms},
		"150000 100000": {Quota: 150 * ms, Period: 100 * ms},
		"1000 1000000":  {Quota: ms, Period: time.Second},
	} {
		got, err := parseLimit(text)
		if err != nil || got != want {
			t.Errorf("parseLimit(%q) = %+v, %v, want %+v", text, got, err, want)
		}
		if again, err := parseLimit(formatLimit(got)); err != nil || again != want {
			t.Errorf("%+v is written as %q", got, formatLimit(got))
		}
	}
	for _, text := range []string{"", "max", "max 0", "-5 100000", "x 100000", "5 y"} {
		if got, err := parseLimit(text); err == nil {
			t.Errorf("parseLimit(%q) = %+v", text, got)
		}
	}
	// The kernel refuses less than a millisecond.
	if got := formatLimit(runtime.CPULimit{Quota: 1, Period: 100 * ms}); got != "1000 100000" {
		t.Errorf("a tiny quota is written as %q", got)
	}
}

func TestUsage(t *testing.T) {
	if d, err := parseUsage("usage_usec 1234567\nuser_usec 1\nsystem_usec 2\n"); err != nil || d != 1234567*time.Microsecond {
		t.Errorf("parseUsage = %s, %v", d, err)
	}
	if _, err := parseUsage("user_usec 1\n"); err == nil {
		t.Error("usage was found where there is none")
	}
}
