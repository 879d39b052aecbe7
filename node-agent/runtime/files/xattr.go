// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package files

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// statT is what os.FileInfo.Sys returns.
type statT = syscall.Stat_t

// listAttributes returns the names of a file's extended attributes.
func listAttributes(f *os.File) ([]string, error) {
	b, err := grow(func(b []byte) (int, error) { return unix.Flistxattr(int(f.Fd()), b) })
	if errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the attributes: %w", err)
	}
	var names []string
	for name := range strings.SplitSeq(string(b), "\x00") {
		if name != "" {
			names = append(names, name)
		}
	}
	return names, nil
}

func getAttribute(f *os.File, name string) ([]byte, error) {
	b, err := grow(func(b []byte) (int, error) { return unix.Fgetxattr(int(f.Fd()), name, b) })
	if err != nil {
		return nil, fmt.Errorf("read attribute %s: %w", name, err)
	}
	return b, nil
}

// grow calls a function that fills a buffer, with a larger one if it asks. The
// kernel's limit for both a value and a list is 64 KiB.
func grow(fill func([]byte) (int, error)) ([]byte, error) {
	for size := 256; ; size *= 16 {
		b := make([]byte, size)
		n, err := fill(b)
		if errors.Is(err, unix.ERANGE) && size <= 64<<10 {
			continue
		}
		if err != nil {
			return nil, err
		}
		return b[:n], nil
	}
}
