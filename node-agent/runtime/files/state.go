// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package files

import (
	"bytes"
	"encoding/gob"
	"fmt"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/node-agent/runtime"
)

// copied is what the archives of a tree, applied one after the other, make.
type copied struct {
	records map[string]*record
}

var _ runtime.Copied = (*copied)(nil)

// record is what is known of a name when it was packed.
type record struct {
	Mode, UID, GID    uint32
	Inode, Links      uint64
	Size, Rdev        int64
	Modified, Changed int64 // nanoseconds
	Opaque            bool
	// Racy: it was changed so shortly before it was looked at, or after, that another
	// change may have got the same time.
	Racy bool
	// Busy: its content may change without its times' doing so.
	Busy bool

	// blocks are hashes of a regular file's content, unknown in an agent that has
	// not packed it itself.
	blocks []uint64
	known  bool
}

func newRecord(st *unix.Stat_t) *record {
	return &record{
		Mode: st.Mode, UID: st.Uid, GID: st.Gid, Inode: st.Ino, Links: links(st), Size: st.Size, Rdev: int64(st.Rdev),
		Modified: st.Mtim.Nano(), Changed: st.Ctim.Nano(),
	}
}

// links is the number of a file's names. It has another type on other architectures.
func links(st *unix.Stat_t) uint64 { return uint64(st.Nlink) } //nolint:unconvert // see above

// same says whether a file has not been changed since, as far as its status tells.
func (r *record) same(st *unix.Stat_t) bool {
	return r.Mode == st.Mode && r.UID == st.Uid && r.GID == st.Gid && r.Inode == st.Ino && r.Size == st.Size &&
		r.Rdev == int64(st.Rdev) && r.Modified == st.Mtim.Nano() && r.Changed == st.Ctim.Nano() &&
		// The number of a directory's links is that of its directories.
		(r.Mode&unix.S_IFMT == unix.S_IFDIR || r.Links == links(st))
}

// sameFile says whether the name stands for the same file as before, changed or not.
func (r *record) sameFile(st *unix.Stat_t) bool {
	return r != nil && r.Inode == st.Ino && r.Mode&unix.S_IFMT == st.Mode&unix.S_IFMT
}

// MarshalBinary implements runtime.Copied. The hashes stay behind: they are good for
// this process only.
func (c *copied) MarshalBinary() ([]byte, error) {
	var b bytes.Buffer
	if err := gob.NewEncoder(&b).Encode(c.records); err != nil {
		return nil, fmt.Errorf("remember what was copied: %w", err)
	}
	return b.Bytes(), nil
}

// Load implements runtime.Files.
func (f *Files) Load(b []byte) (runtime.Copied, error) {
	c := &copied{}
	if err := gob.NewDecoder(bytes.NewReader(b)).Decode(&c.records); err != nil {
		return nil, fmt.Errorf("what was copied: %w", err)
	}
	return c, nil
}
