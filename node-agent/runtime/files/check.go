// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package files

import (
	"archive/tar"
	"fmt"
	"path/filepath"
	"strings"
)

// xattrPrefix is how tar carries extended attributes.
const xattrPrefix = "SCHILY.xattr."

// carried are the extended attributes that travel. Those in the namespace
// "trusted" are the overlay's own, and "security.selinux" and the like belong
// to the node.
func carried(attr string) bool {
	switch {
	case strings.HasPrefix(attr, "user.overlay."):
		return false
	case strings.HasPrefix(attr, "user."):
		return true
	}
	return attr == "security.capability" || attr == "system.posix_acl_access" || attr == "system.posix_acl_default"
}

// check refuses entries that Pack does not write. That nothing outside the
// root is touched, whatever links the archive makes first, does not depend on
// it: os.Root keeps that.
func check(hdr *tar.Header) error {
	switch hdr.Typeflag {
	case tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeFifo:
	case tar.TypeLink:
		if !local(hdr.Linkname) {
			return fmt.Errorf("%w: hard link %q to %q", ErrHostile, hdr.Name, hdr.Linkname)
		}
	default:
		return fmt.Errorf("%w: %q has type %q", ErrHostile, hdr.Name, hdr.Typeflag)
	}
	if !local(hdr.Name) {
		return fmt.Errorf("%w: name %q", ErrHostile, hdr.Name)
	}
	for key := range hdr.PAXRecords {
		if attr, ok := strings.CutPrefix(key, xattrPrefix); ok && !carried(attr) {
			return fmt.Errorf("%w: attribute %q of %q", ErrHostile, attr, hdr.Name)
		}
	}
	return nil
}

// local says whether a name is relative and has no "..".
func local(name string) bool {
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return false
		}
	}
	return filepath.IsLocal(name) && !strings.ContainsRune(name, 0)
}
