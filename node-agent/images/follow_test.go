// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package images

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// writer appends to a file the way CRIU does.
type writer struct {
	t *testing.T
	f *os.File
}

func newWriter(t *testing.T, dir, name string) *writer {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, name))
	must(t, err)
	t.Cleanup(func() { _ = f.Close() })
	return &writer{t, f}
}

func (w *writer) append(b []byte) {
	w.t.Helper()
	_, err := w.f.Write(b)
	must(w.t, err)
}

// awaitPieces returns when so many pieces of the writer's file have been read. What a
// following has read is known once it has ended, so it begins anew until it has read enough.
func awaitPieces(t *testing.T, w *writer, set *Set, name string, n int) {
	t.Helper()
	for limit := time.Now().Add(10 * time.Second); time.Now().Before(limit); set.follow(container, name) {
		time.Sleep(2 * followInterval) // the time that it has to look
		f := set.follows[container+"/"+name]
		f.end()
		<-f.done
		if file := f.files[filepath.Base(w.f.Name())]; file != nil && len(file.sums) >= n*sumSize {
			return
		}
	}
	t.Fatalf("fewer than %d pieces were read", n)
}

// endSet adds what a set has besides rounds, and returns its digest.
func endSet(t *testing.T, set *Set) string {
	t.Helper()
	_, err := set.PrepareFinal(context.Background(), container)
	must(t, err)
	s, err := set.Seal(context.Background())
	must(t, err)
	return s.Digest
}

func TestWhatWasHashedWhileItWasWrittenIsNotReadAgain(t *testing.T) {
	ctx := context.Background()
	for _, final := range []bool{false, true} {
		root := t.TempDir()
		set := newSet(t, newStore(t, root, ""), testUID)
		dir, err := set.PrepareRound(ctx, container, 0)
		name := RoundName(0)
		if final {
			dir, err = set.PrepareFinal(ctx, container)
			name = finalName
		}
		must(t, err)
		content := pages(3, 5<<19) // two pieces and a half
		if final {
			_, err = set.FollowFinal(container)
		} else {
			_, err = set.FollowRound(container, 0)
		}
		must(t, err)
		w := newWriter(t, dir, "pages-1.img")
		w.append(content[:pieceSize/2])
		w.append(content[pieceSize/2:])
		awaitPieces(t, w, set, name, 2)
		// Nobody may write there. That this is not seen says what was read when.
		_, err = w.f.WriteAt([]byte("other"), 5)
		must(t, err)
		var digest string
		if final {
			s, err := set.Seal(ctx)
			must(t, err)
			digest = s.Digest
		} else {
			must(t, set.HashRound(ctx, container, 0))
			digest = endSet(t, set)
		}
		m, err := newSet(t, newStore(t, root, ""), testUID).Manifest(ctx, digest)
		must(t, err)
		whole := filepath.Join(t.TempDir(), "whole")
		must(t, os.WriteFile(whole, content, 0o600))
		f, err := os.Open(whole)
		must(t, err)
		defer f.Close()
		want, err := sumFile(ctx, f, int64(len(content)), nil, nil)
		must(t, err)
		i := slices.IndexFunc(m.Dirs, func(d Dir) bool { return d.Name == name })
		if got := m.Dirs[i].Files[0].Hash; got != want {
			t.Errorf("final %v: the hash is %s, of what CRIU wrote it is %s", final, got, want)
		}
		// And the target finds it.
		if _, err := newSet(t, newStore(t, root, ""), testUID).Verify(ctx, digest); !errors.Is(err, ErrTampered) {
			t.Errorf("final %v: what was changed later was verified: %v", final, err)
		}
	}
}

func TestFollowedSetVerifies(t *testing.T) {
	ctx := context.Background()
	root := t.TempDir()
	set := newSet(t, newStore(t, root, ""), testUID)
	dir, err := set.PrepareRound(ctx, container, 0)
	must(t, err)
	over, err := set.FollowRound(container, 0)
	must(t, err)
	w, small := newWriter(t, dir, "pages-1.img"), newWriter(t, dir, "pages-2.img")
	for i := range 9 {
		w.append(bytes.Repeat([]byte{byte(i), 1}, pieceSize/3))
		small.append([]byte{byte(i)})
		time.Sleep(followInterval / 2) // a dump takes its time
	}
	over()
	over() // again is fine
	must(t, set.HashRound(ctx, container, 0))
	if _, err := newSet(t, newStore(t, root, ""), testUID).Verify(ctx, endSet(t, set)); err != nil {
		t.Error(err)
	}
	if len(set.follows) != 0 {
		t.Error("what was followed is remembered for ever")
	}
}

func TestFollowingARoundThatStartsAgain(t *testing.T) {
	ctx := context.Background()
	root := t.TempDir()
	set := newSet(t, newStore(t, root, ""), testUID)
	for try := range 2 {
		dir, err := set.PrepareRound(ctx, container, 0)
		must(t, err)
		over, err := set.FollowRound(container, 0)
		must(t, err)
		w := newWriter(t, dir, "pages-1.img")
		w.append(pages(byte(try), 2*pieceSize))
		if try == 0 {
			awaitPieces(t, w, set, RoundName(0), 2)
		}
		over()
	}
	must(t, set.HashRound(ctx, container, 0))
	if _, err := newSet(t, newStore(t, root, ""), testUID).Verify(ctx, endSet(t, set)); err != nil {
		t.Error(err)
	}
}

// On a network file system a directory cannot be removed as long as a file of it is open.
func TestNothingIsOpenWhenItIsRemoved(t *testing.T) {
	ctx := context.Background()
	for name, remove := range map[string]func(set *Set) error{
		"the set":   func(set *Set) error { return set.Remove(ctx) },
		"the round": func(set *Set) error { return set.RemoveRound(ctx, container, 0) },
		"another try": func(set *Set) error {
			_, err := set.PrepareRound(ctx, container, 0)
			return err
		},
	} {
		set := newSet(t, newStore(t, t.TempDir(), ""), testUID)
		dir, err := set.PrepareRound(ctx, container, 0)
		must(t, err)
		w := newWriter(t, dir, "pages-1.img")
		w.append(pages(1, 2*pieceSize))
		_, err = set.FollowRound(container, 0)
		must(t, err)
		f := set.follows[container+"/"+RoundName(0)]
		must(t, remove(set))
		select {
		case <-f.done:
		default:
			t.Errorf("%s: a file of it may be open", name)
		}
	}
}

func TestFollowingWhatIsNotThere(t *testing.T) {
	set := newSet(t, newStore(t, t.TempDir(), ""), testUID)
	if _, err := set.FollowRound("../x", 0); !errors.Is(err, ErrInvalidName) {
		t.Errorf("followed: %v", err)
	}
	if _, err := set.FollowFinal(container); err != nil {
		t.Error(err)
	}
	f := set.follows[container+"/"+finalName]
	<-f.done
	if known := set.endFollowing(context.Background(), container, finalName); len(known) != 0 {
		t.Errorf("known: %v", known)
	}
}
