// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package files

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

const (
	// blockSize is what is compared of a file, and what is packed of it, at a time.
	blockSize = 64 << 10
	// batch is what is read of a file at a time.
	batch = 16 * blockSize
)

// seed of the hashes that tell which blocks of a file have changed. They are this
// process's own and never leave it, and no program can make two blocks of one hash.
var seed = maphash.MakeSeed()

var zeros [blockSize]byte

// blocksOf is the number of blocks of a file with so many bytes.
func blocksOf(size int64) int { return int((size + blockSize - 1) / blockSize) }

// span is a part of a file. It begins at a block's beginning, and ends at one or at the
// file's end.
type span struct{ off, length int64 }

// spans makes spans of the blocks that are wanted.
func spans(size int64, wanted func(block int) bool) []span {
	var out []span
	for i := range blocksOf(size) {
		if !wanted(i) {
			continue
		}
		off := int64(i) * blockSize
		n := min(blockSize, size-off)
		if last := len(out) - 1; last >= 0 && out[last].off+out[last].length == off {
			out[last].length += n
			continue
		}
		out = append(out, span{off, n})
	}
	return out
}

// total is how many bytes spans have.
func total(list []span) (n int64) {
	for _, s := range list {
		n += s.length
	}
	return n
}

// content is a regular file that is read block by block.
type content struct {
	f    *os.File
	size int64
	// still: the file does not change. Otherwise what it has lost since its size was
	// read counts as zeros.
	still bool
	buf   []byte
}

// data says of each block whether there is anything in it, or a hole. A file system that
// cannot tell has no holes.
func (c *content) data() ([]bool, error) {
	blocks := make([]bool, blocksOf(c.size))
	for at := int64(0); at < c.size; {
		from, err := unix.Seek(int(c.f.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break // only a hole is left
		}
		to := c.size
		switch {
		case errors.Is(err, unix.EINVAL):
			from = at
		case err != nil:
			return nil, fmt.Errorf("look for holes: %w", err)
		default:
			if to, err = unix.Seek(int(c.f.Fd()), from, unix.SEEK_HOLE); err != nil {
				to = c.size
			}
		}
		for b := from / blockSize; b < int64(len(blocks)) && b*blockSize < to; b++ {
			blocks[b] = true
		}
		at = max(to, at+1)
	}
	return blocks, nil
}

// hash returns the hashes of all blocks. Where there is a hole nothing is read.
func (c *content) hash() ([]uint64, error) {
	data, err := c.data()
	if err != nil {
		return nil, err
	}
	hashes := c.holes()
	err = c.read(spans(c.size, func(b int) bool { return data[b] }), func(block int, b []byte) error {
		hashes[block] = maphash.Bytes(seed, b)
		return nil
	})
	return hashes, err
}

// holes are the hashes of a file that is one hole.
func (c *content) holes() []uint64 {
	hashes := make([]uint64, blocksOf(c.size))
	full := maphash.Bytes(seed, zeros[:])
	for i := range hashes {
		hashes[i] = full
	}
	if last := len(hashes) - 1; last >= 0 {
		hashes[last] = maphash.Bytes(seed, zeros[:c.size-int64(last)*blockSize])
	}
	return hashes
}

// read calls each with the blocks of some spans.
func (c *content) read(list []span, each func(block int, b []byte) error) error {
	if c.buf == nil {
		c.buf = make([]byte, batch)
	}
	for _, s := range list {
		for at, end := s.off, s.off+s.length; at < end; {
			b := c.buf[:min(int64(len(c.buf)), end-at)]
			n, err := c.f.ReadAt(b, at)
			if err != nil && (!errors.Is(err, io.EOF) || c.still) {
				return fmt.Errorf("read at %d: %w", at, err)
			}
			clear(b[n:])
			for i := 0; i < len(b); i += blockSize {
				if err := each(int((at+int64(i))/blockSize), b[i:min(i+blockSize, len(b))]); err != nil {
					return err
				}
			}
			at += int64(len(b))
		}
	}
	return nil
}

// copyTo writes some spans, and sets the hashes to those of what was written.
func (c *content) copyTo(w io.Writer, list []span, hashes []uint64) error {
	return c.read(list, func(block int, b []byte) error {
		hashes[block] = maphash.Bytes(seed, b)
		_, err := w.Write(b)
		return err
	})
}

// An entry with spans has, before their bytes, how many there are and where they begin
// and how long they are: little endian numbers of 64 bits.
const numberSize = 8

func spansSize(list []span) int64 { return numberSize*(1+2*int64(len(list))) + total(list) }

func encodeSpans(list []span) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(list)))
	for _, s := range list {
		b = binary.LittleEndian.AppendUint64(b, uint64(s.off))
		b = binary.LittleEndian.AppendUint64(b, uint64(s.length))
	}
	return b
}

var errSpans = errors.New("its parts do not fit")

// decodeSpans reads the list of an entry with that many bytes of a file with size bytes.
// It is an ascending one, within the file, and the entry has what it says and no more.
func decodeSpans(r io.Reader, entry, size int64) ([]span, error) {
	var b [2 * numberSize]byte
	if _, err := io.ReadFull(r, b[:numberSize]); err != nil {
		return nil, fmt.Errorf("%w: %w", errSpans, err)
	}
	n := binary.LittleEndian.Uint64(b[:])
	if n > uint64(entry)/(2*numberSize) {
		return nil, fmt.Errorf("%w: %d of them", errSpans, n)
	}
	var list []span
	at := int64(0)
	for range n {
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return nil, fmt.Errorf("%w: %w", errSpans, err)
		}
		s := span{int64(binary.LittleEndian.Uint64(b[:])), int64(binary.LittleEndian.Uint64(b[numberSize:]))}
		if s.off < at || s.length <= 0 || s.off > size || s.length > size-s.off {
			return nil, fmt.Errorf("%w: %d bytes at %d of %d", errSpans, s.length, s.off, size)
		}
		at = s.off + s.length
		list = append(list, s)
	}
	if spansSize(list) != entry {
		return nil, fmt.Errorf("%w: the entry has %d bytes, not %d", errSpans, entry, spansSize(list))
	}
	return list, nil
}
