// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package images

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"godwit.dev/godwit/node-agent/runtime"
)

// What is on the volume of a final dump that was made on the node: the memory, whether
// there were links for it or not, all else in one file, and the way to the last round.
func TestStagedDumpComesToTheVolume(t *testing.T) {
	ctx, stage := context.Background(), filepath.Join(t.TempDir(), "stage")
	set := newSet(t, newStore(t, t.TempDir(), ""), testUID)
	for k := range 2 {
		dir, err := set.PrepareRound(ctx, container, k)
		must(t, err)
		write(t, dir, "inventory.img", []byte{byte(k)})
	}
	dump, _, err := set.StageFinal(ctx, container, 1, stage)
	must(t, err)
	write(t, dump, "left.img", []byte("of a dump that was given up"))
	dump, pages, err := set.StageFinal(ctx, container, 1, stage)
	must(t, err)
	// The last round is made while the dump stands ready.
	must(t, set.StageRound(container, 1))
	must(t, os.Symlink(Parent(2), filepath.Join(dump, parentName)))
	if b, err := os.ReadFile(filepath.Join(dump, parentName, "inventory.img")); err != nil || !bytes.Equal(b, []byte{1}) {
		t.Errorf("the round from the dump: %v, %v", b, err)
	}
	for _, name := range []string{"pages-1.img", "pages-2.img"} {
		must(t, link(filepath.Join(pages, name), filepath.Join(dump, name)))
	}
	for name, content := range map[string]string{"pages-1.img": "linked", "pages-3.img": "not linked", "inventory.img": "2", "fs-1.img": "1"} {
		write(t, dump, name, []byte(content))
	}
	first, err := set.Seal(ctx)
	must(t, err)
	names := func(dir string) (n []string) {
		entries, err := os.ReadDir(dir)
		must(t, err)
		for _, e := range entries {
			n = append(n, e.Name())
		}
		return n
	}
	if got := names(pages); !slices.Equal(got, []string{packName, "pages-1.img", "pages-3.img", parentName}) {
		t.Errorf("on the volume are %q", got)
	}
	if to, err := os.Readlink(filepath.Join(pages, parentName)); err != nil || to != Parent(2) {
		t.Errorf("the parent is %q, %v", to, err)
	}
	// Sealed once more it is the same set.
	again, err := set.Seal(ctx)
	must(t, err)
	if again != first {
		t.Errorf("sealed %+v, and then %+v", first, again)
	}
	target, local := newSet(t, newStore(t, set.store.root, ""), testUID), t.TempDir()
	m, err := target.Verify(ctx, first.Digest)
	must(t, err)
	must(t, target.LayOut(ctx, m, container, local))
	if got := names(local); !slices.Equal(got, []string{"fs-1.img", "inventory.img", "pages-1.img", "pages-3.img", parentName}) {
		t.Errorf("on the node are %q", got)
	}
	for name, want := range map[string]string{"pages-1.img": "linked", "pages-3.img": "not linked", "inventory.img": "2", "fs-1.img": "1", "parent/inventory.img": "\x01"} {
		if b, err := os.ReadFile(filepath.Join(local, name)); err != nil || string(b) != want {
			t.Errorf("%s is %q, %v", name, b, err)
		}
	}
	// What changes after it was verified is not restored, and leaves nothing where the one
	// that was verified is laid out later.
	archive, err := os.ReadFile(filepath.Join(pages, packName))
	must(t, err)
	others, more := t.TempDir(), t.TempDir()
	write(t, more, "evil.img", []byte("evil"))
	var evil bytes.Buffer
	must(t, pack(&evil, more, []string{"evil.img"}))
	for _, b := range [][]byte{evil.Bytes(), []byte(strings.Repeat("x", 4096))} {
		write(t, pages, packName, b)
		if err := target.LayOut(ctx, m, container, others); err == nil {
			t.Errorf("%.10q was laid out", b)
		}
	}
	write(t, pages, packName, archive)
	must(t, target.LayOut(ctx, m, container, others))
	if got, want := names(others), names(local); !slices.Equal(got, want) {
		t.Errorf("on the node are %q, not %q", got, want)
	}
}

// Whoever can write to the volume can make the archive.
func TestArchiveOfOthersIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		headers []tar.Header
		kind    runtime.Refusal
	}{
		"a path":         {[]tar.Header{{Name: "../fs-1.img"}}, runtime.RefusedUnlisted},
		"an absolute":    {[]tar.Header{{Name: "/fs-1.img"}}, runtime.RefusedUnlisted},
		"the parent":     {[]tar.Header{{Name: parentName}}, runtime.RefusedUnlisted},
		"a link":         {[]tar.Header{{Name: "fs-1.img", Typeflag: tar.TypeSymlink, Linkname: "/etc/shadow"}}, runtime.RefusedUnlisted},
		"a hard link":    {[]tar.Header{{Name: "fs-1.img", Typeflag: tar.TypeLink, Linkname: "/etc/shadow"}}, runtime.RefusedUnlisted},
		"a device":       {[]tar.Header{{Name: "fs-1.img", Typeflag: tar.TypeBlock}}, runtime.RefusedUnlisted},
		"one name twice": {[]tar.Header{{Name: "fs-1.img"}, {Name: "fs-1.img"}}, runtime.RefusedUnlisted},
		"too large":      {[]tar.Header{{Name: "fs-1.img", Size: maxPack + 1}}, runtime.RefusedSize},
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			w := tar.NewWriter(&b)
			for _, h := range c.headers {
				must(t, w.WriteHeader(&h))
			}
			if c.kind != runtime.RefusedSize { // which has no content here
				must(t, w.Close())
			}
			dir := t.TempDir()
			err := unpack(&b, dir)
			if runtime.RefusalOf(err) != c.kind {
				t.Errorf("refused as %q: %v", runtime.RefusalOf(err), err)
			}
		})
	}
	if err := unpack(strings.NewReader("no archive at all, and longer than a header is"), t.TempDir()); err == nil || errors.Is(err, os.ErrNotExist) {
		t.Errorf("what is no archive: %v", err)
	}
}
