// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package criu

import (
	"errors"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/node-agent/runtime"
	"godwit.dev/godwit/node-agent/runtime/host"
)

// linesAfterError is how many lines after the first error are kept: CRIU tells
// the cause first and then, on its way out, what could not be done because of it.
const linesAfterError = 5

// logError adds the interesting lines of CRIU's log to an error.
type logError struct {
	err   error
	lines []string
}

func (e *logError) Error() string { return e.err.Error() + ": " + strings.Join(e.lines, "; ") }
func (e *logError) Unwrap() error { return e.err }

// LogLines are the lines of CRIU's log that an error of this package carries.
func LogLines(err error) []string {
	if e, ok := errors.AsType[*logError](err); ok {
		return e.lines
	}
	if e, ok := errors.AsType[*host.ExitError](err); ok {
		return e.Log
	}
	return nil
}

// full says whether one of the directories' file systems has no space left. CRIU
// cannot write the cause of its failure into a log on a disk that is full, and a
// short write into an image it reports as such, without a cause.
func (d dirs) full() bool {
	for _, dir := range []*os.File{d.images, d.work} {
		var st unix.Statfs_t
		if err := unix.Fstatfs(int(dir.Fd()), &st); err == nil && st.Blocks > 0 && st.Bavail == 0 {
			return true
		}
	}
	return false
}

func readLogErrors(name string) []string {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil
	}
	return host.LogErrors(b, linesAfterError)
}

// full says whether a failure comes from a full disk.
func full(err error, lines []string) bool {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, runtime.ErrNoSpace) {
		return true
	}
	for _, l := range lines {
		// The texts of the C library and of Go, which differ in their capitals.
		l = strings.ToLower(l)
		if strings.Contains(l, unix.ENOSPC.Error()) || strings.Contains(l, unix.EDQUOT.Error()) {
			return true
		}
	}
	return false
}
