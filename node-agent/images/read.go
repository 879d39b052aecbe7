// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package images

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"os"

	"godwit.dev/godwit/node-agent/runtime"
)

// Read calls use with a file of the set, and returns what it was: whoever has used it
// before the set was verified compares that with the manifest then.
func (s *Set) Read(ctx context.Context, container, dir, name string, use func(r io.Reader, size int64) error) (File, error) {
	if !validPlace(container, dir) || !validFileName(name) {
		return File{}, fmt.Errorf("%w: %q of %q of container %q", ErrInvalidName, name, dir, container)
	}
	var f *os.File
	var id identity
	var full string
	if err := s.store.untilThere(ctx, func() error {
		d, err := s.openDir(container, dir)
		if err != nil {
			return err
		}
		defer d.close()
		full = d.join(name)
		f, id, err = d.openFile(name)
		return err
	}); err != nil {
		return File{}, err
	}
	defer f.Close()
	h := &hashingReader{r: contextReader{ctx, io.LimitReader(f, id.Size)}, all: sha256.New(), piece: sha256.New()}
	if err := use(h, id.Size); err != nil {
		return File{}, err
	}
	// What use had no need of is a part of it, too.
	if _, err := io.Copy(io.Discard, h); err != nil {
		return File{}, wrap(full, err)
	}
	if h.n != id.Size || readAt(f, make([]byte, 1), id.Size) == nil {
		return File{}, tampered(full, runtime.RefusedSize, "its size changed while it was read")
	}
	return File{Name: name, Size: id.Size, Hash: h.sum()}, nil
}

// hashingReader computes File.Hash of what is read.
type hashingReader struct {
	r          io.Reader
	all, piece hash.Hash
	// n bytes were read.
	n int64
}

func (h *hashingReader) Read(b []byte) (int, error) {
	n, err := h.r.Read(b)
	for b = b[:n]; len(b) > 0; {
		part := b[:min(int64(len(b)), pieceSize-h.n%pieceSize)]
		_, _ = h.piece.Write(part) // never fails
		if h.n += int64(len(part)); h.n%pieceSize == 0 {
			h.endPiece()
		}
		b = b[len(part):]
	}
	return n, err
}

func (h *hashingReader) endPiece() {
	_, _ = h.all.Write(h.piece.Sum(nil))
	h.piece.Reset()
}

// sum is to be called once, at the end.
func (h *hashingReader) sum() string {
	if h.n%pieceSize != 0 {
		h.endPiece()
	}
	return hex.EncodeToString(h.all.Sum(nil))
}

// contextReader ends with its context.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(b []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(b)
}

// Same says whether files that were read before the set was verified are those of the
// manifest, all of them and no others. have are what Read has returned, in the order of
// their names.
func (d Dir) Same(have []File) error {
	for i := range max(len(have), len(d.Files)) {
		switch {
		case i >= len(have):
			return tampered(d.path()+"/"+d.Files[i].Name, runtime.RefusedContent, "it was not there when it was read")
		case i >= len(d.Files):
			return tampered(d.path()+"/"+have[i].Name, runtime.RefusedUnlisted, "it was there when it was read")
		case have[i] != d.Files[i]:
			return tampered(d.path()+"/"+have[i].Name, runtime.RefusedContent, "what was read had the hash %s, not %s", have[i].Hash, d.Files[i].Hash)
		}
	}
	return nil
}
