// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package images

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"godwit.dev/godwit/node-agent/runtime"
)

// packRounds fills a set whose files were packed in two rounds and at last.
func packRounds(t *testing.T, set *Set) {
	t.Helper()
	ctx := context.Background()
	dumpSet(t, set)
	for k, content := range [][]byte{pages(1, 3<<20), []byte("more"), nil} {
		for _, c := range []string{container, Pod} {
			if content == nil && c == container {
				continue // nothing had changed
			}
			dir, err := set.PrepareFiles(ctx, c, k)
			must(t, err)
			if content == nil {
				continue
			}
			must(t, os.MkdirAll(dir, 0o700))
			write(t, dir, "x.tar", content)
			must(t, set.HashFiles(ctx, c, k))
		}
	}
}

func use(t *testing.T, into *bytes.Buffer) func(io.Reader, int64) error {
	t.Helper()
	return func(r io.Reader, size int64) error {
		n, err := into.ReadFrom(r)
		if err == nil && n != size {
			t.Errorf("%d bytes, not %d", n, size)
		}
		return err
	}
}

func TestFilesOfRoundsAreReadBeforeTheSetIsVerified(t *testing.T) {
	ctx := context.Background()
	root := t.TempDir()
	src := newSet(t, newStore(t, root, ""), testUID)
	packRounds(t, src)
	dst := newSet(t, newStore(t, root, t.TempDir()), testUID)
	read := map[string][]File{}
	for _, c := range []string{container, Pod} {
		for k := range 2 {
			dir, err := dst.VerifyFiles(ctx, c, k)
			must(t, err)
			var b bytes.Buffer
			f, err := dst.Read(ctx, c, FilesName(k), dir.Files[0].Name, use(t, &b))
			must(t, err)
			if f != dir.Files[0] || int64(b.Len()) != f.Size {
				t.Errorf("read %+v with %d bytes, want %+v", f, b.Len(), dir.Files[0])
			}
			read[c+"/"+FilesName(k)] = []File{f}
		}
	}
	if _, err := src.PrepareFiles(ctx, Pod, 0); !errors.Is(err, ErrFinished) {
		t.Errorf("the files of a finished round may be packed anew: %v", err)
	}
	sealed, err := src.Seal(ctx)
	must(t, err)
	m, err := dst.Verify(ctx, sealed.Digest)
	must(t, err)
	found := 0
	for _, d := range m.Dirs {
		have, ok := read[d.Container+"/"+d.Name]
		if !ok {
			continue
		}
		found++
		must(t, d.Same(have))
		other := have[0]
		other.Hash = Digest(nil)
		for what, list := range map[string][]File{"other content": {other}, "less": nil, "more": append(have, other)} {
			if err := d.Same(list); runtime.RefusalOf(err) == "" {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
	if found != len(read) {
		t.Errorf("the manifest has %d of the %d directories", found, len(read))
	}
}

func TestReadTakesNoMoreThanThereWas(t *testing.T) {
	ctx := context.Background()
	set := newSet(t, newStore(t, t.TempDir(), ""), testUID)
	packRounds(t, set)
	// Nothing of it is read by who uses it, and its hash is that of all of it.
	f, err := set.Read(ctx, Pod, FilesName(0), "x.tar", func(io.Reader, int64) error { return nil })
	must(t, err)
	want, err := set.VerifyFiles(ctx, Pod, 0)
	must(t, err)
	if f != want.Files[0] {
		t.Errorf("%+v, want %+v", f, want.Files[0])
	}
	name := filepath.Join(set.Dir(), Pod, FilesName(0), "x.tar")
	if _, err := set.Read(ctx, Pod, FilesName(0), "x.tar", func(r io.Reader, _ int64) error {
		a, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0)
		must(t, err)
		_, err = a.WriteString("grown")
		must(t, errors.Join(err, a.Close()))
		return nil
	}); runtime.RefusalOf(err) != runtime.RefusedSize {
		t.Errorf("a file that grows: %v", err)
	}
	must(t, os.Remove(name))
	must(t, os.Symlink("/etc/passwd", name))
	for what, read := range map[string][3]string{
		"a link":                {Pod, FilesName(0), "x.tar"},
		"another directory":     {Pod, "..", "x.tar"},
		"a path":                {Pod, FilesName(0), "../../x"},
		"a container's name":    {"..", FilesName(0), "x.tar"},
		"a round of the pod":    {Pod, RoundName(0), "x.tar"},
		"one that is not there": {Pod, FilesName(0), "y.tar"},
	} {
		if _, err := set.Read(ctx, read[0], read[1], read[2], func(io.Reader, int64) error {
			t.Errorf("%s: it is read", what)
			return nil
		}); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
}
