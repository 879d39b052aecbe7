// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"strings"
	"testing"
)

func TestSameVersion(t *testing.T) {
	for _, tc := range []struct {
		a, b string
		same bool
	}{
		{"4.1.1", "4.1.1", true},
		{"4.1.1", "v4.1.1", true},
		{"4.1", "4.1.0", true},
		{"4.1.1", "4.1.10", false},
		{"4.10", "4.1", false},
		{"4.1.1", "4.1.1-dirty", false},
		{"4.1.1-a", "4.1.1-b", false},
		{"04.1", "4.1", true},
		{"", "", true},
		{"devel", "devel", true},
		{"devel", "4.1", false},
	} {
		if got := sameVersion(tc.a, tc.b); got != tc.same {
			t.Errorf("sameVersion(%q, %q) = %v", tc.a, tc.b, got)
		}
		if got := sameVersion(tc.b, tc.a); got != tc.same {
			t.Errorf("sameVersion(%q, %q) = %v", tc.b, tc.a, got)
		}
	}
}

func TestOlderKernel(t *testing.T) {
	for _, tc := range []struct {
		a, b      string
		older, ok bool
	}{
		{"6.12.1", "6.12.1", false, true},
		{"6.12.9", "6.12.10", true, true},
		{"6.9.10", "6.12.1", true, true},
		{"6.12.1", "5.10.100", false, true},
		{"6.12", "6.12.1", true, true},
		{"6.12.0", "6.12", false, true},
		{"6.12.48+deb13-cloud-amd64", "6.12.48+deb13-amd64", false, true},
		// ABI numbers of different flavours have no order.
		{"6.8.0-45-generic", "6.8.0-1015-aws", false, true},
		{"5.14.0-362.el9.x86_64", "5.14.0-427.13.1.el9_4.x86_64", false, true},
		{"6.13.0-rc1", "6.12.48", false, true},
		{"", "6.12.1", true, false},
		{"6.12.1", "", false, false},
		{"six", "6.1", true, false},
		{"6.", "6.1", true, true},
		{"99999999999999999999", "6.1", true, false},
	} {
		older, ok := olderKernel(tc.a, tc.b)
		if ok != tc.ok || ok && older != tc.older {
			t.Errorf("olderKernel(%q, %q) = %v, %v", tc.a, tc.b, older, ok)
		}
	}
}

func FuzzVersion(f *testing.F) {
	for _, s := range []string{"", "v", "6.12.48+deb13", "1..2", "1.2.", ".", "4.1.1-rc1"} {
		f.Add(s, "6.12.1")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		if !sameVersion(a, a) {
			t.Errorf("%q is not the same as itself", a)
		}
		if sameVersion(a, b) != sameVersion(b, a) {
			t.Errorf("sameVersion(%q, %q) depends on the order", a, b)
		}
		x, okX := olderKernel(a, b)
		y, okY := olderKernel(b, a)
		if okX != okY || okX && x && y {
			t.Errorf("%q and %q are each older than the other", a, b)
		}
	})
}

func TestMarksRestores(t *testing.T) {
	for criu, want := range map[string]bool{"3.17.1": false, "3.18": false, "3.19": true, "4.1.1": true, "v4.2": true, "": false, "unknown": false} {
		if got := marksRestores(criu); got != want {
			t.Errorf("%q: %v", criu, got)
		}
	}
}

func TestAnOldCRIUIsNotEligible(t *testing.T) {
	old := func(n *NodeInfo) { n.Facts.CRIU = "3.18" }
	if names, why := EligibleNodes(able("n1", old), []NodeInfo{able("n2", old)}); len(names) > 0 || !strings.Contains(why["n2"], "only from 3.19 on") {
		t.Errorf("%v, %v", names, why)
	}
}
