// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package images

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	noderuntime "godwit.dev/godwit/node-agent/runtime"
)

// hashed is what is known about a directory after it has been read.
type hashed struct {
	Dir Dir `json:"dir"`
	// Identities of the files when they were read, by name.
	Identities map[string]identity `json:"identities"`
}

// Small files cost a round trip to the server and no computing, large ones the
// opposite: more workers than processors serve both.
func workers() int { return 2*runtime.GOMAXPROCS(0) + 2 }

const bufferSize = 1 << 20

var buffers = sync.Pool{New: func() any { b := make([]byte, bufferSize); return &b }}

func sortEntries(e []fs.DirEntry) {
	slices.SortFunc(e, func(a, b fs.DirEntry) int { return cmp.Compare(a.Name(), b.Name()) })
}

// hashDir reads all of a directory of the set. With sync, every file and the
// directory itself are on stable storage when it returns.
func hashDir(ctx context.Context, d *dir, container, name string, sync bool) (*hashed, error) {
	entries, err := d.list()
	if err != nil {
		return nil, err
	}
	h := &hashed{Dir: Dir{Container: container, Name: name, Files: []File{}}, Identities: map[string]identity{}}
	names := []string{}
	for _, e := range entries {
		switch {
		case e.Name() == parentName && name != filesName:
			if h.Dir.Parent, err = d.readLink(); err != nil {
				return nil, err
			}
		case !validFileName(e.Name()):
			return nil, tampered(d.join(e.Name()), noderuntime.RefusedUnlisted, "it does not belong into an image set")
		default:
			names = append(names, e.Name())
		}
	}
	files, ids := make([]File, len(names)), make([]identity, len(names))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(workers())
	for i, n := range names {
		g.Go(func() error {
			var err error
			files[i], ids[i], err = hashFile(ctx, d, n, anySize, sync)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	h.Dir.Files = append(h.Dir.Files, files...)
	for i, n := range names {
		h.Identities[n] = ids[i]
	}
	if sync {
		if err := d.f.Sync(); err != nil {
			return nil, wrap(d.name, err)
		}
	}
	return h, nil
}

// anySize lets hashFile take a file of whatever size.
const anySize = -1

// hashFile reads one file. When its size is known and wrong it is not read at
// all: a set that was cut short is found without reading gigabytes. The identity is the one from before the reading, so
// that a file that is written meanwhile does not look untouched later.
func hashFile(ctx context.Context, d *dir, name string, size int64, sync bool) (File, identity, error) {
	if err := ctx.Err(); err != nil {
		return File{}, identity{}, err
	}
	f, id, err := d.openFile(name)
	if err != nil {
		return File{}, identity{}, err
	}
	defer f.Close()
	if size != anySize && id.Size != size {
		return File{}, identity{}, tampered(d.join(name), noderuntime.RefusedSize, "it has %d bytes, not %d", id.Size, size)
	}
	if sync {
		if err := f.Sync(); err != nil {
			return File{}, identity{}, wrap(d.join(name), err)
		}
		// Writing back may settle the times on a network file system.
		if id, err = fstat(f, d.join(name)); err != nil {
			return File{}, identity{}, err
		}
	}
	sum, n, err := sumFile(ctx, f, id.Size)
	if err != nil {
		return File{}, identity{}, wrap(d.join(name), err)
	}
	if n != id.Size {
		return File{}, identity{}, tampered(d.join(name), noderuntime.RefusedSize, "its size changed while it was read")
	}
	return File{Name: name, Size: n, SHA256: sum}, id, nil
}

// sumFile reads limit bytes, and one more if there is one: a file that somebody
// keeps appending to must not be read for ever.
func sumFile(ctx context.Context, f *os.File, limit int64) (string, int64, error) {
	in := io.LimitReader(f, limit+1)
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	sum, total := sha256.New(), int64(0)
	for {
		if err := ctx.Err(); err != nil {
			return "", 0, err
		}
		n, err := in.Read(*buf)
		total += int64(n)
		_, _ = sum.Write((*buf)[:n]) // never fails
		if errors.Is(err, io.EOF) {
			return hex.EncodeToString(sum.Sum(nil)), total, nil
		}
		if err != nil {
			return "", 0, fmt.Errorf("read: %w", err)
		}
	}
}
