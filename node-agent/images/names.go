// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package images

import (
	"fmt"
	"strconv"
	"strings"
)

const (
	manifestName = "manifest.json"
	manifestTemp = "manifest.json.tmp"
	finalName    = "final"
	filesName    = "files"
	roundPrefix  = "round-"
	// parentName is the link CRIU makes to the images a dump builds on.
	parentName = "parent"
	// maxRound is the highest round number that keeps three digits.
	maxRound = 999
)

// RoundName is the directory name of round k.
func RoundName(k int) string { return fmt.Sprintf("%s%03d", roundPrefix, k) }

// Parent is the relative path from round k, or from the final dump that follows
// round k-1, to the images it builds on; "" for k = 0, a full dump.
func Parent(k int) string {
	if k <= 0 {
		return ""
	}
	return "../" + RoundName(k-1)
}

// roundNumber is the inverse of RoundName.
func roundNumber(name string) (int, bool) {
	digits, ok := strings.CutPrefix(name, roundPrefix)
	if !ok || len(digits) != 3 {
		return 0, false
	}
	k, err := strconv.ParseUint(digits, 10, 16)
	if err != nil {
		return 0, false
	}
	return int(k), true
}

// parentRound returns the round a parent link points to.
func parentRound(link string) (int, bool) {
	name, ok := strings.CutPrefix(link, "../")
	if !ok {
		return 0, false
	}
	return roundNumber(name)
}

// isDirName says whether a container's directory may contain a directory so named.
func isDirName(name string) bool {
	if name == finalName || name == filesName {
		return true
	}
	_, ok := roundNumber(name)
	return ok
}

// validLabel accepts what Kubernetes allows as a container name or a UID: lower
// case letters, digits and inner dashes. It cannot be "..", hidden or nested.
func validLabel(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// validFileName accepts a plain file name: one path element of printable ASCII,
// not hidden, not the parent link.
func validFileName(s string) bool {
	if s == "" || len(s) > 255 || s[0] == '.' || s == parentName {
		return false
	}
	for _, c := range []byte(s) {
		if c <= ' ' || c > '~' || c == '/' || c == '\\' {
			return false
		}
	}
	return true
}

func checkRound(container string, k int) error {
	if !validLabel(container) {
		return fmt.Errorf("%w: container %q", ErrInvalidName, container)
	}
	if k < 0 || k > maxRound {
		return fmt.Errorf("%w: round %d", ErrInvalidName, k)
	}
	return nil
}
