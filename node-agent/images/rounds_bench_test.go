// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"godwit.dev/godwit/node-agent/images/pagemap"
)

// BenchmarkRounds reads rounds as the source does that has just written them, and as the
// target does: all memory of a process, and single pages all over it. The volume is in
// the directory for temporary files (TMPDIR), what is merged in /dev/shm.
func BenchmarkRounds(b *testing.B) {
	const size, parts = 256 << 20, 4 // of which the later round dirties one page in so many
	pages := uint64(size) / pageBytes
	full := []pagemap.Entry{{Addr: pageBytes, Pages: pages, Flags: pagemap.Present | pagemap.Lazy}}
	var scattered []pagemap.Entry
	for at := uint64(0); at < pages; at += parts {
		scattered = append(scattered, pagemap.Entry{Addr: (1 + at) * pageBytes, Pages: 1, Flags: full[0].Flags},
			pagemap.Entry{Addr: (2 + at) * pageBytes, Pages: parts - 1, Flags: pagemap.Parent})
	}
	ctx := context.Background()
	benchmark := func(name string, bytes int64, merge bool, rounds ...[]pagemap.Entry) {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(bytes)
			for b.Loop() {
				b.StopTimer()
				local, err := os.MkdirTemp("/dev/shm", "rounds")
				if err != nil {
					b.Fatal(err)
				}
				store, err := Open(b.TempDir(), Options{LocalDir: local})
				if err != nil {
					b.Fatal(err)
				}
				set, err := store.Set(testUID)
				if err != nil {
					b.Fatal(err)
				}
				read := func(k int) error {
					if merge {
						return set.VerifyRound(ctx, container, k)
					}
					return set.HashRound(ctx, container, k)
				}
				for k, entries := range rounds {
					if err := writeRound(ctx, set, k, entries); err != nil {
						b.Fatal(err)
					}
					if k < len(rounds)-1 {
						err = read(k)
					} else {
						b.StartTimer()
						err = read(k)
						b.StopTimer()
					}
					if err != nil {
						b.Fatal(err)
					}
				}
				if merge && !set.merging(container).going() {
					b.Fatal(set.merging(container).err)
				}
				if err := os.RemoveAll(local); err != nil {
					b.Fatal(err)
				}
				if err := set.Remove(ctx); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
	benchmark("source", size, false, full)
	benchmark("target/whole", size, true, full)
	benchmark("target/scattered", size/parts, true, full, scattered)
}

// BenchmarkFollowedRound is what is left to do when a dump has ended that was followed, and
// was written at the pace at which CRIU dumps single pages on an emulated node. Where the
// volume is, is as in BenchmarkRounds.
func BenchmarkFollowedRound(b *testing.B) {
	const size, pace = 128 << 20, 30 * time.Millisecond // for a MiB
	ctx := context.Background()
	b.SetBytes(size)
	for b.Loop() {
		b.StopTimer()
		store, err := Open(b.TempDir(), Options{})
		if err != nil {
			b.Fatal(err)
		}
		set, err := store.Set(testUID)
		if err != nil {
			b.Fatal(err)
		}
		dir, err := set.PrepareRound(ctx, container, 0)
		if err != nil {
			b.Fatal(err)
		}
		f, err := os.Create(filepath.Join(dir, pagesName(1)))
		if err != nil {
			b.Fatal(err)
		}
		over, err := set.FollowRound(container, 0)
		if err != nil {
			b.Fatal(err)
		}
		tick := time.NewTicker(pace)
		for range size >> 20 {
			<-tick.C
			for range (1 << 20) / pageBytes {
				if _, err := io.CopyN(f, zeros{}, int64(pageBytes)); err != nil {
					b.Fatal(err)
				}
			}
		}
		tick.Stop()
		b.StartTimer()
		if err := f.Close(); err != nil { // a network file system has all of it written by then
			b.Fatal(err)
		}
		over()
		if err := set.HashRound(ctx, container, 0); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := set.Remove(ctx); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// writeRound writes a round of one process.
func writeRound(ctx context.Context, set *Set, k int, entries []pagemap.Entry) error {
	dir, err := set.PrepareRound(ctx, container, k)
	if err != nil {
		return err
	}
	if p := Parent(k); p != "" {
		if err := os.Symlink(p, filepath.Join(dir, parentName)); err != nil {
			return err
		}
	}
	if err := writeMap(dir, 1, &pagemap.Map{PagesID: 1, Entries: entries}); err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(dir, pagesName(1)))
	if err != nil {
		return err
	}
	defer f.Close()
	present := int64(0)
	for _, e := range entries {
		if e.Flags&pagemap.Present != 0 {
			present += int64(e.Pages * pageBytes)
		}
	}
	_, err = io.CopyN(f, zeros{}, present)
	return err
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

// BenchmarkFinalDump makes the small files of a final dump and seals it, and reads it as the
// target does: on the volume, which is in the directory for temporary files (TMPDIR), and
// on the node, in /dev/shm.
func BenchmarkFinalDump(b *testing.B) {
	ctx := context.Background()
	for _, staged := range []bool{false, true} {
		name := "volume"
		if staged {
			name = "node"
		}
		b.Run(name, func(b *testing.B) {
			var made, read time.Duration
			for b.Loop() {
				local, err := os.MkdirTemp("/dev/shm", "final")
				if err != nil {
					b.Fatal(err)
				}
				root := b.TempDir()
				set, target := benchSet(b, root), benchSet(b, root)
				dump, err := set.PrepareFinal(ctx, container)
				if staged && err == nil {
					dump, _, err = set.StageFinal(ctx, container, 0, filepath.Join(local, "stage"))
				}
				if err != nil {
					b.Fatal(err)
				}
				begun := time.Now()
				for i := range 40 {
					if err := os.WriteFile(filepath.Join(dump, fmt.Sprintf("file-%d.img", i)), make([]byte, 2000), 0o600); err != nil {
						b.Fatal(err)
					}
				}
				sealed, err := set.Seal(ctx)
				if err != nil {
					b.Fatal(err)
				}
				made += time.Since(begun)
				begun = time.Now()
				m, err := target.Verify(ctx, sealed.Digest)
				if err == nil {
					err = target.LayOut(ctx, m, container, filepath.Join(local, "laid-out"))
				}
				if err != nil {
					b.Fatal(err)
				}
				read += time.Since(begun)
				if err := errors.Join(set.Remove(ctx), os.RemoveAll(local)); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(made.Seconds()/float64(b.N), "s-made/op")
			b.ReportMetric(read.Seconds()/float64(b.N), "s-read/op")
		})
	}
}

func benchSet(b *testing.B, root string) *Set {
	store, err := Open(root, Options{})
	if err != nil {
		b.Fatal(err)
	}
	set, err := store.Set(testUID)
	if err != nil {
		b.Fatal(err)
	}
	return set
}
