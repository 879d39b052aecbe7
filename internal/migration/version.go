// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"cmp"
	"strconv"
	"strings"
)

// version is a dotted number and what follows it: "6.12.48+deb13-cloud-amd64"
// is [6 12 48] and "+deb13-cloud-amd64".
type version struct {
	numbers []int
	rest    string
}

// parseVersion reads a version; ok is false when it does not begin with a
// number. A leading "v" is ignored.
func parseVersion(s string) (v version, ok bool) {
	s = strings.TrimPrefix(strings.TrimSpace(s), "v")
	for {
		digits := len(s) - len(strings.TrimLeft(s, "0123456789"))
		n, err := strconv.Atoi(s[:digits])
		if err != nil {
			// No digits, or more than a number holds.
			return version{}, false
		}
		v.numbers = append(v.numbers, n)
		s = s[digits:]
		if !strings.HasPrefix(s, ".") || len(s) < 2 || s[1] < '0' || s[1] > '9' {
			v.rest = s
			return v, true
		}
		s = s[1:]
	}
}

// compare orders two versions by their first n numbers (all when n is 0);
// missing numbers are 0. What follows the numbers is not looked at.
func (v version) compare(w version, n int) int {
	if n == 0 {
		n = max(len(v.numbers), len(w.numbers))
	}
	for i := range n {
		if c := cmp.Compare(v.number(i), w.number(i)); c != 0 {
			return c
		}
	}
	return 0
}

func (v version) number(i int) int {
	if i < len(v.numbers) {
		return v.numbers[i]
	}
	return 0
}

// sameVersion says whether a and b name the same version, whatever the number
// of trailing zeros. Versions that cannot be read are the same when they are
// the same text.
func sameVersion(a, b string) bool {
	v, okA := parseVersion(a)
	w, okB := parseVersion(b)
	if !okA || !okB {
		return a == b
	}
	return v.compare(w, 0) == 0 && v.rest == w.rest
}

// olderKernel says whether kernel release a is older than b. Only version,
// patch level and sublevel count: what distributions append (ABI numbers,
// flavours) has no order between them. ok is false when one cannot be read.
func olderKernel(a, b string) (older, ok bool) {
	v, okA := parseVersion(a)
	w, okB := parseVersion(b)
	return v.compare(w, 3) < 0, okA && okB
}

// oldestCRIU is the first that calls the action script of its configuration file
// although runc has asked for notifications of its own. Without the script nobody
// could tell of a restore that was interrupted whether the processes have run.
const oldestCRIU = "3.19"

// marksRestores says whether a release of CRIU is one of those.
func marksRestores(criu string) bool {
	v, ok := parseVersion(criu)
	oldest, _ := parseVersion(oldestCRIU)
	return ok && v.compare(oldest, 0) >= 0
}
