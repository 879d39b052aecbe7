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
	filesPrefix  = "files-"
	// Pod stands in the place of a container for what is not one container's. It is
	// not a name that a container can have.
	Pod = "_pod"
	// parentName is the link CRIU makes to the images a dump builds on.
	parentName = "parent"
	// maxRound is the highest round number that keeps three digits.
	maxRound = 999
)

// RoundName is the directory name of round k.
func RoundName(k int) string { return fmt.Sprintf("%s%03d", roundPrefix, k) }

// FilesName is the directory name of the files packed in round k.
func FilesName(k int) string { return fmt.Sprintf("%s%03d", filesPrefix, k) }

// FilesRound is the inverse of FilesName. The files that were packed at last, while the
// pod stood still, are of none: last.
func FilesRound(name string) (k int, last, ok bool) {
	if name == filesName {
		return 0, true, true
	}
	k, ok = numbered(name, filesPrefix)
	return k, false, ok
}

// isFiles says whether a directory of that name holds packed files.
func isFiles(name string) bool {
	_, _, ok := FilesRound(name)
	return ok
}

// Parent is the relative path from round k, or from the final dump that follows
// round k-1, to the images it builds on; "" for k = 0, a full dump.
func Parent(k int) string {
	if k <= 0 {
		return ""
	}
	return "../" + RoundName(k-1)
}

// roundNumber is the inverse of RoundName.
func roundNumber(name string) (int, bool) { return numbered(name, roundPrefix) }

func numbered(name, prefix string) (int, bool) {
	digits, ok := strings.CutPrefix(name, prefix)
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
	if name == finalName || isFiles(name) {
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
	return checkNumber(k)
}

// checkFilesRound is checkRound for packed files, which the pod has too.
func checkFilesRound(container string, k int) error {
	if container == Pod {
		return checkNumber(k)
	}
	return checkRound(container, k)
}

func checkNumber(k int) error {
	if k < 0 || k > maxRound {
		return fmt.Errorf("%w: round %d", ErrInvalidName, k)
	}
	return nil
}
