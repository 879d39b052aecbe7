// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package files

import (
	"archive/tar"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"godwit.dev/godwit/node-agent/runtime"
)

// xattrPrefix is how tar carries extended attributes.
const xattrPrefix = "SCHILY.xattr."

// records of our own that an entry may have.
var records = []string{recordKind, recordSize, recordPatch}

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

// ArchiveError says what of an archive is not acceptable. It is ErrHostile.
type ArchiveError struct {
	// Kind is RefusedArchive or RefusedBomb.
	Kind runtime.Refusal
	// Detail names what was found.
	Detail string
}

var _ runtime.Refuser = (*ArchiveError)(nil)

// Error implements error.
func (e *ArchiveError) Error() string { return ErrHostile.Error() + ": " + e.Detail }

// Unwrap makes it ErrHostile.
func (e *ArchiveError) Unwrap() error { return ErrHostile }

// Refusal implements runtime.Refuser.
func (e *ArchiveError) Refusal() runtime.Refusal { return e.Kind }

func hostile(kind runtime.Refusal, format string, args ...any) error {
	return &ArchiveError{Kind: kind, Detail: fmt.Sprintf(format, args...)}
}

// check refuses entries that Pack does not write. That nothing outside the
// root is touched, whatever links the archive makes first, does not depend on
// it: os.Root keeps that.
func check(hdr *tar.Header) error {
	switch hdr.Typeflag {
	case tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeFifo:
	case tar.TypeLink:
		if !local(hdr.Linkname) {
			return hostile(runtime.RefusedArchive, "hard link %q to %q", hdr.Name, hdr.Linkname)
		}
	default:
		return hostile(runtime.RefusedArchive, "%q has type %q", hdr.Name, hdr.Typeflag)
	}
	if !local(hdr.Name) {
		return hostile(runtime.RefusedArchive, "name %q", hdr.Name)
	}
	for key := range hdr.PAXRecords {
		if attr, ok := strings.CutPrefix(key, xattrPrefix); ok && !carried(attr) {
			return hostile(runtime.RefusedArchive, "attribute %q of %q", attr, hdr.Name)
		}
		if strings.HasPrefix(key, recordPrefix) && (hdr.Typeflag != tar.TypeReg || !slices.Contains(records, key)) {
			return hostile(runtime.RefusedArchive, "record %q of %q", key, hdr.Name)
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
