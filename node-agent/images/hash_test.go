// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package images

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"testing"

	"github.com/zeebo/blake3"
)

// What the manifest's format says, computed plainly.
func TestHashOfAFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "f")
	for _, size := range []int{0, 1, pieceSize - 1, pieceSize, pieceSize + 1, 5*pieceSize + 7, batchSize + pieceSize/2} {
		content := make([]byte, size)
		for i := range content {
			content[i] = byte(i>>16) ^ byte(i*131)
		}
		must(t, os.WriteFile(name, content, 0o600))
		var sums []byte
		for at := 0; at < size; at += pieceSize {
			sum := sha256.Sum256(content[at:min(at+pieceSize, size)])
			sums = append(sums, sum[:]...)
		}
		want := sha256.Sum256(sums)
		f, err := os.Open(name)
		must(t, err)
		got, err := sumFile(context.Background(), f, int64(size), nil, nil)
		f.Close()
		if err != nil || got != hex.EncodeToString(want[:]) {
			t.Errorf("%d bytes: %s, %v, want %x", size, got, err, want)
		}
	}
}

func TestHashOfAHugeSparseFileEndsWithItsContext(t *testing.T) {
	name := filepath.Join(t.TempDir(), "f")
	must(t, os.WriteFile(name, nil, 0o600))
	must(t, os.Truncate(name, 1<<42))
	f, err := os.Open(name)
	must(t, err)
	defer f.Close()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := sumFile(ctx, f, 1<<42, nil, nil); err == nil {
		t.Error("no error")
	}
}

// BenchmarkHash compares what a piece is hashed with to what it was hashed with before,
// which needs no instructions of its own to be fast, but wide registers.
func BenchmarkHash(b *testing.B) {
	piece := make([]byte, pieceSize)
	for kind, sum := range map[string]func([]byte) [sumSize]byte{
		"SHA-256": sha256.Sum256,
		"BLAKE3":  blake3.Sum256,
	} {
		b.Run(kind, func(b *testing.B) {
			b.SetBytes(pieceSize)
			for b.Loop() {
				sum(piece)
			}
		})
	}
}
