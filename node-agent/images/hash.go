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
	"golang.org/x/sync/semaphore"

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

func sortEntries(e []fs.DirEntry) {
	slices.SortFunc(e, func(a, b fs.DirEntry) int { return cmp.Compare(a.Name(), b.Name()) })
}

// reading is how a directory or a file is read.
type reading struct {
	// sync: all of it is on stable storage afterwards.
	sync bool
	// into takes what is read in, nil for nothing.
	into *intake
	// known is what needs no reading, by the name of the file.
	known map[string]*followed
}

// files calls f for each of the names, with those first that tell what belongs where, and
// those that have any of these.
func (o reading) files(ctx context.Context, names []string, f func(ctx context.Context, i int) error) error {
	each := func(lists bool) error {
		g, ctx := errgroup.WithContext(ctx)
		g.SetLimit(workers())
		for i, n := range names {
			if (isList(n) || n == packName) == lists {
				g.Go(func() error { return f(ctx, i) })
			}
		}
		return g.Wait()
	}
	if err := each(true); err != nil {
		return err
	}
	o.into.plan()
	return each(false)
}

// hashDir reads all of a directory of the set.
func hashDir(ctx context.Context, d *dir, container, name string, o reading) (*hashed, error) {
	entries, err := d.list()
	if err != nil {
		return nil, err
	}
	h := &hashed{Dir: Dir{Container: container, Name: name, Files: []File{}}, Identities: map[string]identity{}}
	names := []string{}
	for _, e := range entries {
		switch {
		case e.Name() == parentName && !isFiles(name):
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
	if err := o.files(ctx, names, func(ctx context.Context, i int) error {
		var err error
		files[i], ids[i], err = hashFile(ctx, d, names[i], anySize, o)
		return err
	}); err != nil {
		return nil, err
	}
	h.Dir.Files = append(h.Dir.Files, files...)
	for i, n := range names {
		h.Identities[n] = ids[i]
	}
	if o.sync {
		if err := d.f.Sync(); err != nil {
			return nil, wrap(d.name, err)
		}
	}
	return h, nil
}

// anySize lets hashFile take a file of whatever size.
const anySize = -1

// hashFile reads one file. When its size is known and wrong it is not read at
// all: a set that was cut short is found without reading gigabytes. The identity is
// the one from before the reading, so that a file that is written meanwhile does not look
// untouched later.
func hashFile(ctx context.Context, d *dir, name string, size int64, o reading) (File, identity, error) {
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
	if o.sync {
		if err := f.Sync(); err != nil {
			return File{}, identity{}, wrap(d.join(name), err)
		}
		// Writing back may settle the times on a network file system.
		if id, err = fstat(f, d.join(name)); err != nil {
			return File{}, identity{}, err
		}
	}
	to := o.into.file(name, id.Size)
	sum, err := sumFile(ctx, f, id.Size, o.known[name].known(id), to)
	to.close()
	if errors.Is(err, errResized) {
		return File{}, identity{}, tampered(d.join(name), noderuntime.RefusedSize, "its size changed while it was read")
	}
	if err != nil {
		return File{}, identity{}, wrap(d.join(name), err)
	}
	return File{Name: name, Size: id.Size, Hash: sum}, id, nil
}

// pieceSize is what is hashed at a time; part of the manifest's format.
const pieceSize = 1 << 20

var (
	pieces = sync.Pool{New: func() any { b := make([]byte, pieceSize); return &b }}
	// hashing bounds the pieces in memory, of all files together.
	hashing = semaphore.NewWeighted(int64(workers()))

	errResized = errors.New("the size is another one")
)

// batchSize is how much of a file is hashed before the results are taken together: what
// they need does not depend on how large somebody says that a file is.
const batchSize = 32 * pieceSize

// sumFile is File.Hash of a file with that many bytes, of which the first pieces may be
// known. It reads so many, and one more if there is one: a file that somebody keeps
// appending to must not be read for ever.
func sumFile(ctx context.Context, f *os.File, size int64, known []byte, to *taken) (string, error) {
	all := sha256.New()
	_, _ = all.Write(known) // never fails
	for at := int64(len(known)/sumSize) * pieceSize; at < size; at += batchSize {
		sums, err := sumPieces(ctx, f, at, min(at+batchSize, size), to)
		if err != nil {
			return "", err
		}
		_, _ = all.Write(sums)
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if readAt(f, make([]byte, 1), size) == nil {
		return "", errResized
	}
	return hex.EncodeToString(all.Sum(nil)), nil
}

// sumPieces returns the hashes of the pieces from one place in a file to another.
func sumPieces(ctx context.Context, f *os.File, from, end int64, to *taken) ([]byte, error) {
	sums := make([]byte, (end-from+pieceSize-1)/pieceSize*sumSize)
	g, ctx := errgroup.WithContext(ctx)
	for i := 0; i < len(sums); i += sumSize {
		at := from + int64(i/sumSize)*pieceSize
		if err := hashing.Acquire(ctx, 1); err != nil {
			return nil, errors.Join(g.Wait(), err)
		}
		g.Go(func() error {
			defer hashing.Release(1)
			buf := pieces.Get().(*[]byte)
			defer pieces.Put(buf)
			piece := (*buf)[:min(pieceSize, end-at)]
			if err := readAt(f, piece, at); err != nil {
				return err
			}
			to.piece(piece, at)
			sum := sha256.Sum256(piece)
			copy(sums[i:], sum[:])
			return nil
		})
	}
	return sums, g.Wait()
}

// readAt fills buf, or fails.
func readAt(f *os.File, buf []byte, at int64) error {
	_, err := f.ReadAt(buf, at)
	if errors.Is(err, io.EOF) {
		return errResized
	}
	if err != nil {
		return fmt.Errorf("read: %w", err)
	}
	return nil
}
