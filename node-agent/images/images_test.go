// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package images

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

const (
	testUID   = "0a1b2c3d-1111-2222-3333-444455556666"
	otherUID  = "ffffffff-1111-2222-3333-444455556666"
	container = "app"
)

// write puts a file below dir.
func write(t *testing.T, dir, name string, content []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newStore(t *testing.T, root, state string) *Store {
	t.Helper()
	s, err := Open(root, Options{StateDir: state, Settle: 50 * time.Millisecond})
	must(t, err)
	return s
}

func newSet(t *testing.T, s *Store, uid string) *Set {
	t.Helper()
	set, err := s.Set(uid)
	must(t, err)
	return set
}

// pages is content that differs from file to file and spans several reads.
func pages(seed byte, n int) []byte {
	return bytes.Repeat([]byte{seed, seed + 1, seed + 2, 0}, n/4)
}

// dumpSet fills a set the way a source does: two rounds, a final dump, files.
func dumpSet(t *testing.T, set *Set) {
	t.Helper()
	ctx := context.Background()
	for k := range 2 {
		dir, err := set.PrepareRound(ctx, container, k)
		must(t, err)
		write(t, dir, "pages-1.img", pages(byte(k), 3<<20))
		write(t, dir, "inventory.img", []byte("inventory"))
		if p := Parent(k); p != "" {
			must(t, os.Symlink(p, filepath.Join(dir, "parent")))
		}
		must(t, set.HashRound(ctx, container, k))
	}
	dir, err := set.PrepareFinal(ctx, container)
	must(t, err)
	write(t, dir, "pages-1.img", pages(9, 4096))
	write(t, dir, "empty.img", nil)
	must(t, os.Symlink(Parent(2), filepath.Join(dir, "parent")))
	dir, err = set.PrepareLastFiles(ctx, container)
	must(t, err)
	write(t, dir, "rootfs.tar", []byte("tar"))
}

// sealed returns a store's root with one sealed set and its digest.
func sealed(t *testing.T) (root, digest string) {
	t.Helper()
	root = t.TempDir()
	set := newSet(t, newStore(t, root, ""), testUID)
	dumpSet(t, set)
	s, err := set.Seal(context.Background())
	must(t, err)
	return root, s.Digest
}

func TestSealedSetVerifies(t *testing.T) {
	ctx := context.Background()
	root, state := t.TempDir(), t.TempDir()
	src := newSet(t, newStore(t, root, state), testUID)
	dumpSet(t, src)
	got, err := src.Seal(ctx)
	must(t, err)
	if want := int64(2*(3<<20) + 2*9 + 4096 + 3); got.Bytes != want {
		t.Errorf("Bytes = %d, want %d", got.Bytes, want)
	}
	again, err := src.Seal(ctx)
	must(t, err)
	if again != got {
		t.Errorf("sealing an unchanged set again gave %v, before it was %v", again, got)
	}

	// Another node, with and without having read the rounds before.
	for _, early := range []bool{true, false} {
		dst := newSet(t, newStore(t, root, t.TempDir()), testUID)
		if early {
			must(t, dst.VerifyRound(ctx, container, 0))
			must(t, dst.VerifyRound(ctx, container, 1))
		}
		m, err := dst.Verify(ctx, got.Digest)
		if err != nil {
			t.Fatalf("early=%v: %v", early, err)
		}
		if len(m.Dirs) != 4 || m.Bytes() != got.Bytes {
			t.Errorf("manifest has %d directories and %d bytes", len(m.Dirs), m.Bytes())
		}
	}
}

func TestDirectoriesAreFreshAndPrivate(t *testing.T) {
	ctx := context.Background()
	set := newSet(t, newStore(t, t.TempDir(), ""), testUID)
	dir, err := set.PrepareRound(ctx, container, 0)
	must(t, err)
	write(t, dir, "core-1.img", []byte("left by a try that was interrupted"))
	dir, err = set.PrepareRound(ctx, container, 0)
	must(t, err)
	entries, err := os.ReadDir(dir)
	must(t, err)
	if len(entries) != 0 {
		t.Errorf("a prepared round holds %v", entries)
	}
	for d := dir; d != filepath.Dir(set.Dir()); d = filepath.Dir(d) {
		fi, err := os.Stat(d)
		must(t, err)
		if fi.Mode().Perm() != 0o700 {
			t.Errorf("%s has mode %o", d, fi.Mode().Perm())
		}
	}
	if want, _ := set.RoundDir(container, 0); want != dir {
		t.Errorf("RoundDir = %s, PrepareRound = %s", want, dir)
	}
}

func TestFinishedRoundIsNotOverwritten(t *testing.T) {
	ctx := context.Background()
	root, state := t.TempDir(), t.TempDir()
	set := newSet(t, newStore(t, root, state), testUID)
	dumpSet(t, set)
	// Also not by an agent that has been restarted.
	for _, s := range []*Set{set, newSet(t, newStore(t, root, state), testUID)} {
		if _, err := s.PrepareRound(ctx, container, 1); !isErr(err, ErrFinished) {
			t.Errorf("PrepareRound of a finished round: %v", err)
		}
	}
	must(t, set.RemoveRound(ctx, container, 1))
	if _, err := set.PrepareRound(ctx, container, 1); err != nil {
		t.Errorf("after RemoveRound: %v", err)
	}
}

func TestRestartedAgentDoesNotReadRoundsAgain(t *testing.T) {
	ctx := context.Background()
	root, state := t.TempDir(), t.TempDir()
	set := newSet(t, newStore(t, root, state), testUID)
	dumpSet(t, set)
	want, err := set.Seal(ctx)
	must(t, err)

	// Replace what was remembered by something recognisable: if it turns up in
	// the manifest, the round was not read again.
	key := roundKey{container, 0, false}
	h := set.loadState(key)
	if h == nil {
		t.Fatal("nothing was remembered")
	}
	h.Dir.Files[0].Hash = Digest([]byte("remembered"))
	must(t, set.saveState(key, h))
	restarted := newSet(t, newStore(t, root, state), testUID)
	got, err := restarted.Seal(ctx)
	must(t, err)
	if got.Digest == want.Digest {
		t.Error("the round was read again")
	}

	// A round that was touched meanwhile must be read again.
	dir, _ := set.RoundDir(container, 0)
	write(t, dir, "pages-1.img", pages(0, 3<<20))
	restarted = newSet(t, newStore(t, root, state), testUID)
	if got, err = restarted.Seal(ctx); err != nil || got.Digest != want.Digest {
		t.Errorf("after touching the round: %v, %v; want digest %s", got, err, want.Digest)
	}
}

func TestSealRefusesWhatDoesNotBelong(t *testing.T) {
	ctx := context.Background()
	for name, spoil := range map[string]func(t *testing.T, set *Set){
		"no final dump": func(t *testing.T, set *Set) {
			dir, _ := set.FinalDir(container)
			must(t, os.RemoveAll(dir))
		},
		"link in the final dump": func(t *testing.T, set *Set) {
			dir, _ := set.FinalDir(container)
			must(t, os.Symlink("/etc/passwd", filepath.Join(dir, "core-1.img")))
		},
		"absolute parent": func(t *testing.T, set *Set) {
			dir, _ := set.FinalDir(container)
			must(t, os.Remove(filepath.Join(dir, "parent")))
			must(t, os.Symlink("/etc", filepath.Join(dir, "parent")))
		},
		"parent that is not in the set": func(t *testing.T, set *Set) {
			dir, _ := set.FinalDir(container)
			must(t, os.Remove(filepath.Join(dir, "parent")))
			must(t, os.Symlink("../round-007", filepath.Join(dir, "parent")))
		},
		"directory in the files": func(t *testing.T, set *Set) {
			must(t, os.Mkdir(filepath.Join(set.Dir(), container, filesName, "sub"), 0o700))
		},
		"stray file in the container": func(t *testing.T, set *Set) {
			write(t, filepath.Join(set.Dir(), container), "core", nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			set := newSet(t, newStore(t, t.TempDir(), ""), testUID)
			dumpSet(t, set)
			spoil(t, set)
			if got, err := set.Seal(ctx); err == nil {
				t.Fatalf("sealed: %v", got)
			}
			if _, err := os.Stat(filepath.Join(set.Dir(), manifestName)); err == nil {
				t.Error("a manifest was written")
			}
		})
	}
}

func TestInvalidNamesNeverBecomePaths(t *testing.T) {
	store := newStore(t, t.TempDir(), "")
	for _, uid := range []string{"", ".", "..", "a/b", "../x", "A", "a..b", "-a", "a\x00b"} {
		if _, err := store.Set(uid); !isErr(err, ErrInvalidName) {
			t.Errorf("Set(%q): %v", uid, err)
		}
	}
	set := newSet(t, store, testUID)
	for _, c := range []string{"", "..", "a/b", "/etc", "manifest.json"} {
		if _, err := set.RoundDir(c, 0); !isErr(err, ErrInvalidName) {
			t.Errorf("RoundDir(%q): %v", c, err)
		}
		if _, err := set.PrepareFinal(context.Background(), c); !isErr(err, ErrInvalidName) {
			t.Errorf("PrepareFinal(%q): %v", c, err)
		}
	}
	for _, k := range []int{-1, 1000} {
		if _, err := set.RoundDir(container, k); !isErr(err, ErrInvalidName) {
			t.Errorf("round %d: %v", k, err)
		}
	}
}

func TestSetOfUnknownRootFails(t *testing.T) {
	missing, err := Open(filepath.Join(t.TempDir(), "not-mounted"), Options{})
	must(t, err)
	if err := missing.Check(); err == nil {
		t.Error("a directory that is not there can be used")
	}
	notYet := errors.New("not yet")
	root := t.TempDir()
	early, err := Open(root, Options{Available: func() error { return notYet }})
	must(t, err)
	set, err := early.Set(testUID)
	must(t, err)
	_, prepared := set.PrepareFinal(t.Context(), container)
	_, free := early.Free()
	for what, err := range map[string]error{"Check": early.Check(), "PrepareFinal": prepared, "Free": free, "Remove": set.Remove(t.Context())} {
		if !errors.Is(err, notYet) {
			t.Errorf("%s before the volume is there: %v", what, err)
		}
	}
	if left, err := os.ReadDir(root); err != nil || len(left) > 0 {
		t.Errorf("something was written before the volume was there: %v %v", left, err)
	}
	if _, err := Open("relative", Options{}); !isErr(err, ErrInvalidName) {
		t.Errorf("relative root: %v", err)
	}
}

func TestDirectoriesAreClosedToOthers(t *testing.T) {
	root := t.TempDir()
	set := newSet(t, newStore(t, root, ""), testUID)
	// Made before by somebody who wants to look in.
	must(t, os.Mkdir(set.Dir(), 0o700))
	must(t, os.Chmod(set.Dir(), 0o777))
	_, err := set.PrepareRound(t.Context(), container, 0)
	must(t, err)
	_, err = set.PrepareFinal(t.Context(), container)
	must(t, err)
	_, err = set.PrepareLastFiles(t.Context(), container)
	must(t, err)
	must(t, filepath.WalkDir(set.Dir(), func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err == nil && fi.IsDir() && fi.Mode().Perm() != 0o700 {
			t.Errorf("%s has mode %v", path, fi.Mode())
		}
		return err
	}))
}
