// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package images

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"godwit.dev/godwit/node-agent/runtime"
)

func isErr(err, want error) bool { return errors.Is(err, want) }

// spoilers are changes to a sealed set; each must be found.
var spoilers = []struct {
	name string
	do   func(t *testing.T, set string)
	want error
	kind runtime.Refusal
	// file is a part of the name the error must mention.
	file string
}{
	{"truncated", func(t *testing.T, set string) {
		must(t, os.Truncate(set+"/app/round-000/pages-1.img", 100))
	}, ErrTampered, runtime.RefusedSize, "round-000/pages-1.img"},
	{"one bit", func(t *testing.T, set string) {
		f, err := os.OpenFile(set+"/app/final/pages-1.img", os.O_RDWR, 0)
		must(t, err)
		defer f.Close()
		_, err = f.WriteAt([]byte{0x80}, 17)
		must(t, err)
	}, ErrTampered, runtime.RefusedContent, "final/pages-1.img"},
	{"one bit with the old times", func(t *testing.T, set string) {
		name := set + "/app/round-001/pages-1.img"
		fi, err := os.Stat(name)
		must(t, err)
		b, err := os.ReadFile(name)
		must(t, err)
		b[99] ^= 1
		must(t, os.WriteFile(name, b, 0o600))
		must(t, os.Chtimes(name, fi.ModTime(), fi.ModTime()))
	}, ErrTampered, runtime.RefusedContent, "round-001/pages-1.img"},
	{"swapped files", func(t *testing.T, set string) {
		a, b := set+"/app/round-000/pages-1.img", set+"/app/round-001/pages-1.img"
		must(t, os.Rename(a, a+".x"))
		must(t, os.Rename(b, a))
		must(t, os.Rename(a+".x", b))
	}, ErrTampered, runtime.RefusedContent, "pages-1.img"},
	{"missing file", func(t *testing.T, set string) {
		must(t, os.Remove(set+"/app/round-000/inventory.img"))
	}, ErrMissing, runtime.RefusedMissing, "round-000/inventory.img"},
	{"missing directory", func(t *testing.T, set string) {
		must(t, os.RemoveAll(set+"/app/files"))
	}, ErrMissing, runtime.RefusedMissing, "app/files"},
	{"extra file", func(t *testing.T, set string) {
		write(t, set+"/app/final", "core-1.img", []byte("injected"))
	}, ErrTampered, runtime.RefusedUnlisted, "final/core-1.img"},
	{"extra directory", func(t *testing.T, set string) {
		must(t, os.Mkdir(set+"/app/round-002", 0o700))
	}, ErrTampered, runtime.RefusedUnlisted, "app/round-002"},
	{"extra container", func(t *testing.T, set string) {
		must(t, os.MkdirAll(set+"/evil/final", 0o700))
	}, ErrTampered, runtime.RefusedUnlisted, "evil"},
	{"file becomes a link", func(t *testing.T, set string) {
		must(t, os.Rename(set+"/app/final/pages-1.img", set+"/../elsewhere"))
		must(t, os.Symlink("../../../elsewhere", set+"/app/final/pages-1.img"))
	}, ErrTampered, runtime.RefusedType, "final/pages-1.img"},
	{"file becomes a fifo", func(t *testing.T, set string) {
		must(t, os.Remove(set+"/app/final/pages-1.img"))
		must(t, syscall.Mkfifo(set+"/app/final/pages-1.img", 0o600))
	}, ErrTampered, runtime.RefusedType, "final/pages-1.img"},
	{"file becomes a directory", func(t *testing.T, set string) {
		must(t, os.Remove(set+"/app/final/pages-1.img"))
		must(t, os.Mkdir(set+"/app/final/pages-1.img", 0o700))
	}, ErrTampered, runtime.RefusedType, "final/pages-1.img"},
	{"directory becomes a link", func(t *testing.T, set string) {
		must(t, os.Rename(set+"/app/final", set+"/../elsewhere"))
		must(t, os.Symlink("../../elsewhere", set+"/app/final"))
	}, ErrTampered, runtime.RefusedType, "app/final"},
	{"container becomes a link", func(t *testing.T, set string) {
		must(t, os.Rename(set+"/app", set+"/../elsewhere"))
		must(t, os.Symlink("../elsewhere", set+"/app"))
	}, ErrTampered, runtime.RefusedType, "app"},
	{"set becomes a link", func(t *testing.T, set string) {
		must(t, os.Rename(set, set+"x"))
		must(t, os.Symlink(filepath.Base(set)+"x", set))
	}, ErrTampered, runtime.RefusedType, testUID},
	{"parent leads elsewhere in the set", func(t *testing.T, set string) {
		must(t, os.Remove(set+"/app/final/parent"))
		must(t, os.Symlink("../round-000", set+"/app/final/parent"))
	}, ErrTampered, runtime.RefusedParent, "final/parent"},
	{"parent leads out", func(t *testing.T, set string) {
		must(t, os.Remove(set+"/app/final/parent"))
		must(t, os.Symlink("../../../../etc", set+"/app/final/parent"))
	}, ErrTampered, runtime.RefusedParent, "final/parent"},
	{"parent is a directory", func(t *testing.T, set string) {
		must(t, os.Remove(set+"/app/final/parent"))
		must(t, os.Mkdir(set+"/app/final/parent", 0o700))
	}, ErrTampered, runtime.RefusedParent, "final/parent"},
	{"parent is gone", func(t *testing.T, set string) {
		must(t, os.Remove(set+"/app/round-001/parent"))
	}, ErrMissing, runtime.RefusedMissing, "round-001/parent"},
	{"parent where none was", func(t *testing.T, set string) {
		must(t, os.Symlink("../final", set+"/app/round-000/parent"))
	}, ErrTampered, runtime.RefusedUnlisted, "round-000/parent"},
	{"other manifest", func(t *testing.T, set string) {
		b, err := os.ReadFile(set + "/manifest.json")
		must(t, err)
		write(t, set, "manifest.json", append(b, ' '))
	}, ErrDigestMismatch, runtime.RefusedDigest, "manifest.json"},
	{"manifest is gone", func(t *testing.T, set string) {
		must(t, os.Remove(set+"/manifest.json"))
	}, ErrMissing, runtime.RefusedMissing, "manifest.json"},
	{"manifest becomes a fifo", func(t *testing.T, set string) {
		must(t, os.Remove(set+"/manifest.json"))
		must(t, syscall.Mkfifo(set+"/manifest.json", 0o600))
	}, ErrTampered, runtime.RefusedType, "manifest.json"},
	{"manifest becomes a link", func(t *testing.T, set string) {
		must(t, os.Rename(set+"/manifest.json", set+"/../m"))
		must(t, os.Symlink("../m", set+"/manifest.json"))
	}, ErrTampered, runtime.RefusedType, "manifest.json"},
	{"huge manifest", func(t *testing.T, set string) {
		must(t, os.Truncate(set+"/manifest.json", 1<<40))
	}, ErrManifest, runtime.RefusedManifest, "manifest.json"},
	{"grown", func(t *testing.T, set string) {
		f, err := os.OpenFile(set+"/app/round-001/pages-1.img", os.O_APPEND|os.O_WRONLY, 0)
		must(t, err)
		defer f.Close()
		_, err = f.Write([]byte("more"))
		must(t, err)
	}, ErrTampered, runtime.RefusedSize, "round-001/pages-1.img"},
	{"file becomes a socket", func(t *testing.T, set string) {
		must(t, os.Remove(set+"/app/final/pages-1.img"))
		must(t, syscall.Mknod(set+"/app/final/pages-1.img", syscall.S_IFSOCK|0o600, 0))
	}, ErrTampered, runtime.RefusedType, "final/pages-1.img"},
	{"file becomes an absolute link", func(t *testing.T, set string) {
		must(t, os.Remove(set+"/app/files/rootfs.tar"))
		must(t, os.Symlink("/etc/shadow", set+"/app/files/rootfs.tar"))
	}, ErrTampered, runtime.RefusedType, "files/rootfs.tar"},
	{"file becomes a hard link to another", func(t *testing.T, set string) {
		must(t, os.Remove(set+"/app/final/pages-1.img"))
		must(t, os.WriteFile(set+"/../elsewhere", []byte("another's"), 0o600))
		must(t, os.Link(set+"/../elsewhere", set+"/app/final/pages-1.img"))
	}, ErrTampered, runtime.RefusedSize, "final/pages-1.img"},
	{"directory becomes a file", func(t *testing.T, set string) {
		must(t, os.RemoveAll(set+"/app/final"))
		write(t, set+"/app", "final", []byte("x"))
	}, ErrTampered, runtime.RefusedType, "app/final"},
	{"manifest becomes a directory", func(t *testing.T, set string) {
		must(t, os.Remove(set+"/manifest.json"))
		must(t, os.Mkdir(set+"/manifest.json", 0o700))
	}, ErrTampered, runtime.RefusedType, "manifest.json"},
	{"very many extra files", func(t *testing.T, set string) {
		for i := range 3000 {
			write(t, set+"/app/final", fmt.Sprintf("x-%d", i), nil)
		}
	}, ErrTampered, runtime.RefusedUnlisted, "app/final"},
	{"parent is absolute", func(t *testing.T, set string) {
		must(t, os.Remove(set+"/app/final/parent"))
		must(t, os.Symlink("/etc", set+"/app/final/parent"))
	}, ErrTampered, runtime.RefusedParent, "final/parent"},
}

func TestVerifyFindsTampering(t *testing.T) {
	ctx := context.Background()
	for _, tc := range spoilers {
		for _, early := range []bool{false, true} {
			name := tc.name
			if early {
				name += " after the rounds were read"
			}
			t.Run(name, func(t *testing.T) {
				root, digest := sealed(t)
				set := newSet(t, newStore(t, root, t.TempDir()), testUID)
				if early {
					must(t, set.VerifyRound(ctx, container, 0))
					must(t, set.VerifyRound(ctx, container, 1))
				}
				tc.do(t, filepath.Join(root, testUID))
				_, err := set.Verify(ctx, digest)
				if !isErr(err, tc.want) {
					t.Fatalf("got %v, want %v", err, tc.want)
				}
				if got := runtime.RefusalOf(err); got != tc.kind {
					t.Errorf("refused as %q, want %q", got, tc.kind)
				}
				var fe *FileError
				if !errors.As(err, &fe) || !strings.Contains(fe.Name, tc.file) {
					t.Errorf("%v does not name %q", err, tc.file)
				}
			})
		}
	}
}

func TestDeviceIsNeverOpened(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("making a device needs root")
	}
	root, digest := sealed(t)
	name := filepath.Join(root, testUID, "app/final/pages-1.img")
	must(t, os.Remove(name))
	// /dev/zero would never end if it were read.
	must(t, syscall.Mknod(name, syscall.S_IFCHR|0o600, 1<<8|5))
	if _, err := newSet(t, newStore(t, root, ""), testUID).Verify(context.Background(), digest); !isErr(err, ErrTampered) {
		t.Errorf("got %v", err)
	}
}

func TestSetOfAnotherMigrationIsRefused(t *testing.T) {
	root, digest := sealed(t)
	must(t, os.Rename(filepath.Join(root, testUID), filepath.Join(root, otherUID)))
	_, err := newSet(t, newStore(t, root, ""), otherUID).Verify(context.Background(), digest)
	if !isErr(err, ErrTampered) || runtime.RefusalOf(err) != runtime.RefusedMigration {
		t.Errorf("got %v", err)
	}
}

// The whole set, manifest and all, put in the place of this migration's.
func TestSetSwappedForAnothersIsRefused(t *testing.T) {
	root, digest := sealed(t)
	other := newSet(t, newStore(t, root, ""), otherUID)
	dir, err := other.PrepareFinal(context.Background(), container)
	must(t, err)
	write(t, dir, "core-1.img", []byte("injected"))
	_, err = other.Seal(context.Background())
	must(t, err)
	must(t, os.Rename(filepath.Join(root, testUID), filepath.Join(root, "old")))
	must(t, os.Rename(filepath.Join(root, otherUID), filepath.Join(root, testUID)))
	_, err = newSet(t, newStore(t, root, ""), testUID).Verify(context.Background(), digest)
	if !isErr(err, ErrDigestMismatch) || runtime.RefusalOf(err) != runtime.RefusedDigest {
		t.Errorf("got %v", err)
	}
}

// A file that grows without end is given up after one byte too many.
func TestEndlessFileIsNotReadForEver(t *testing.T) {
	name := filepath.Join(t.TempDir(), "f")
	must(t, os.WriteFile(name, bytes.Repeat([]byte("x"), 1000), 0o600))
	f, err := os.Open(name)
	must(t, err)
	defer f.Close()
	for _, size := range []int64{10, 1001} {
		if _, err := sumFile(context.Background(), f, size, nil, nil); !errors.Is(err, errResized) {
			t.Errorf("%d bytes of 1000: %v", size, err)
		}
	}
}

func TestVerifyReadsARoundAgainThatWasTouched(t *testing.T) {
	ctx := context.Background()
	root, digest := sealed(t)
	set := newSet(t, newStore(t, root, ""), testUID)
	must(t, set.VerifyRound(ctx, container, 0))
	// The same content written again: no harm, but it has to be read.
	write(t, filepath.Join(root, testUID, "app/round-000"), "pages-1.img", pages(0, 3<<20))
	if _, err := set.Verify(ctx, digest); err != nil {
		t.Errorf("unchanged content: %v", err)
	}
}

func TestLateNamesAreWaitedFor(t *testing.T) {
	ctx := context.Background()
	root, digest := sealed(t)
	store, err := Open(root, Options{Settle: 30 * time.Second})
	must(t, err)
	set := newSet(t, store, testUID)
	hidden := filepath.Join(root, "hidden")
	must(t, os.Rename(filepath.Join(root, testUID), hidden))
	done := make(chan error, 1)
	go func() {
		_, err := set.Verify(ctx, digest)
		done <- err
	}()
	select {
	case err := <-done:
		t.Fatalf("did not wait: %v", err)
	case <-time.After(30 * time.Millisecond):
	}
	must(t, os.Rename(hidden, filepath.Join(root, testUID)))
	must(t, <-done)
}

// A file that is not listed where everything else is was removed: the source,
// which stands frozen, does not wait for it as for names that caches may hide.
func TestUnlistedFilesAreGivenUpSoon(t *testing.T) {
	for _, name := range []string{"app/final/pages-1.img", "app/round-000"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root, digest := sealed(t)
			store, err := Open(root, Options{Settle: time.Hour})
			must(t, err)
			must(t, os.RemoveAll(filepath.Join(root, testUID, name)))
			start := time.Now()
			if _, err := newSet(t, store, testUID).Verify(t.Context(), digest); !isErr(err, ErrMissing) || !strings.Contains(err.Error(), name) {
				t.Errorf("got %v, want %s missing", err, name)
			}
			if took := time.Since(start); took < listingSettle {
				t.Errorf("given up after %s, without a look at what a slow server says", took)
			}
		})
	}
}

func TestCancelledVerifyEnds(t *testing.T) {
	root, digest := sealed(t)
	store, err := Open(root, Options{Settle: time.Hour})
	must(t, err)
	must(t, os.Remove(filepath.Join(root, testUID, "app/final/pages-1.img")))
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Millisecond)
	defer cancel()
	if _, err = newSet(t, store, testUID).Verify(ctx, digest); !isErr(err, context.DeadlineExceeded) || !isErr(err, ErrMissing) {
		t.Errorf("got %v", err)
	}
}

func TestRemoveFollowsNoLinks(t *testing.T) {
	ctx := context.Background()
	for _, tc := range []struct {
		name string
		link func(root, outside string) error
	}{
		{"below the set", func(root, outside string) error {
			return os.Symlink(outside, filepath.Join(root, testUID, "app", "final", "link"))
		}},
		{"in place of a container", func(root, outside string) error {
			if err := os.RemoveAll(filepath.Join(root, testUID, "app")); err != nil {
				return err
			}
			return os.Symlink(outside, filepath.Join(root, testUID, "app"))
		}},
		{"in place of the set", func(root, outside string) error {
			if err := os.RemoveAll(filepath.Join(root, testUID)); err != nil {
				return err
			}
			return os.Symlink(outside, filepath.Join(root, testUID))
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			root, _ := sealed(t)
			// Inside the same volume: os.Root alone would follow such a link.
			outside := filepath.Join(root, otherUID)
			must(t, os.MkdirAll(filepath.Join(outside, "final"), 0o700))
			write(t, outside, "manifest.json", []byte("precious"))
			write(t, filepath.Join(outside, "final"), "core-1.img", []byte("precious"))
			rel, err := filepath.Rel(root, outside)
			must(t, err)
			must(t, tc.link(root, rel))
			set := newSet(t, newStore(t, root, ""), testUID)
			_ = set.RemoveRound(ctx, container, 0)
			_, _ = set.PrepareFinal(ctx, container)
			_ = set.Remove(ctx)
			for _, f := range []string{"manifest.json", "final/core-1.img"} {
				b, err := os.ReadFile(filepath.Join(outside, f))
				if err != nil || !bytes.Equal(b, []byte("precious")) {
					t.Errorf("%s of the other set: %q, %v", f, b, err)
				}
			}
		})
	}
}
