// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package files

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// overlayMarks are what the overlay's own attributes say of a file.
type overlayMarks struct{ opaque, whiteout bool }

// attributes reads the extended attributes of an open file: those to carry go
// into the header, the overlay's are interpreted.
func (p *packer) attributes(f *os.File, hdr *tar.Header) (overlayMarks, error) {
	var marks overlayMarks
	names, err := listAttributes(f)
	if err != nil {
		return marks, err
	}
	for _, attr := range names {
		own, isOverlay := overlayAttribute(attr)
		if p.overlay && isOverlay {
			if err := marks.add(f, attr, own); err != nil {
				return marks, err
			}
			continue
		}
		if !carried(attr) {
			continue
		}
		value, err := getAttribute(f, attr)
		if errors.Is(err, unix.ENODATA) && !p.still {
			continue // taken away meanwhile, which the next time shows
		}
		if err != nil {
			return marks, err
		}
		addRecord(hdr, xattrPrefix+attr, string(value))
	}
	return marks, nil
}

func overlayAttribute(attr string) (string, bool) {
	if own, ok := strings.CutPrefix(attr, "trusted.overlay."); ok {
		return own, true
	}
	return strings.CutPrefix(attr, "user.overlay.")
}

// add interprets an attribute of the overlay. With redirect or metacopy the
// upper directory alone does not tell what a file is.
func (m *overlayMarks) add(f *os.File, attr, own string) error {
	switch own {
	case "opaque":
		value, err := getAttribute(f, attr)
		if err != nil {
			return err
		}
		// "x" only announces whiteouts in the form of attributes below.
		m.opaque = bytes.Equal(value, []byte("y"))
	case "whiteout":
		m.whiteout = true
	case "redirect", "metacopy":
		return fmt.Errorf("%w: the overlay uses %s", ErrNotPackable, own)
	}
	// origin, impure, nlink, uuid, …: the overlay's bookkeeping.
	return nil
}

// isOpaque says whether a directory of an upper directory hides what is below it.
func isOpaque(d *os.File) (bool, error) {
	for _, attr := range []string{"trusted.overlay.opaque", "user.overlay.opaque"} {
		value, err := getAttribute(d, attr)
		if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) {
			continue
		}
		if err != nil {
			return false, err
		}
		if bytes.Equal(value, []byte("y")) {
			return true, nil
		}
	}
	return false, nil
}

// dropAttributes takes away those attributes of a file that a header does not have.
func dropAttributes(f *os.File, hdr *tar.Header) error {
	names, err := listAttributes(f)
	if err != nil {
		return err
	}
	for _, attr := range names {
		if _, wanted := hdr.PAXRecords[xattrPrefix+attr]; wanted || !carried(attr) {
			continue
		}
		if err := unix.Fremovexattr(int(f.Fd()), attr); err != nil && !errors.Is(err, unix.ENODATA) {
			return fmt.Errorf("remove attribute %s: %w", attr, err)
		}
	}
	return nil
}

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
