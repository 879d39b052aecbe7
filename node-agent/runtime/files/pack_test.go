// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package files

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/node-agent/runtime"
)

func openRoot(t *testing.T, dir string) *os.Root {
	t.Helper()
	r, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func write(t *testing.T, name, content string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(name, mode); err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// pack packs a tree that stands still.
func pack(dir string, overlay bool, out io.Writer, since *copied) (*copied, error) {
	root, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return (&packer{root: root, out: out, overlay: overlay, still: true, since: since}).pack(context.Background())
}

func packed(t *testing.T, dir string, overlay bool) []byte {
	t.Helper()
	var b bytes.Buffer
	_, err := pack(dir, overlay, &b, nil)
	must(t, err)
	return b.Bytes()
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: device nodes and owners")
	}
}

func TestUpperDirectoryArrives(t *testing.T) {
	needRoot(t)
	upper, lower := t.TempDir(), t.TempDir()
	when := time.Unix(1700000000, 123456789)

	write(t, filepath.Join(upper, "etc/new"), "new", 0o640)
	must(t, os.Chown(filepath.Join(upper, "etc/new"), 1000, 1001))
	must(t, os.Chtimes(filepath.Join(upper, "etc/new"), when, when))
	write(t, filepath.Join(upper, "bin/tool"), "setuid", 0o755|os.ModeSetuid)
	must(t, os.Link(filepath.Join(upper, "etc/new"), filepath.Join(upper, "etc/second")))
	must(t, os.Symlink("/etc/passwd", filepath.Join(upper, "etc/link")))
	must(t, unix.Mkfifo(filepath.Join(upper, "fifo"), 0o600))
	must(t, os.Chmod(filepath.Join(upper, "fifo"), 0o620))
	must(t, unix.Mknod(filepath.Join(upper, "etc/gone"), unix.S_IFCHR, 0))
	must(t, os.MkdirAll(filepath.Join(upper, "cleared"), 0o711))
	must(t, unix.Setxattr(filepath.Join(upper, "cleared"), "trusted.overlay.opaque", []byte("y"), 0))
	write(t, filepath.Join(upper, "cleared/kept"), "kept", 0o600)
	must(t, os.MkdirAll(filepath.Join(upper, "locked"), 0o755))
	write(t, filepath.Join(upper, "locked/in"), "in", 0o600)
	must(t, os.Chmod(filepath.Join(upper, "locked"), 0o500))
	must(t, os.Chtimes(filepath.Join(upper, "locked"), when, when))

	write(t, filepath.Join(lower, "etc/gone"), "old", 0o600)
	write(t, filepath.Join(lower, "etc/stays"), "old", 0o600)
	write(t, filepath.Join(lower, "etc/new"), "a longer old content", 0o600)
	write(t, filepath.Join(lower, "cleared/old/deep"), "old", 0o600)

	archive := packed(t, upper, true)
	must(t, newUnpacker(openRoot(t, lower), true, int64(len(archive))).unpack(context.Background(), bytes.NewReader(archive)))

	for name, want := range map[string]string{"etc/new": "new", "etc/second": "new", "etc/stays": "old", "cleared/kept": "kept", "locked/in": "in"} {
		if got, err := os.ReadFile(filepath.Join(lower, name)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v, want %q", name, got, err, want)
		}
	}
	for _, name := range []string{"etc/gone", "cleared/old"} {
		if _, err := os.Lstat(filepath.Join(lower, name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there (%v)", name, err)
		}
	}
	var st, st2 unix.Stat_t
	must(t, unix.Lstat(filepath.Join(lower, "etc/new"), &st))
	must(t, unix.Lstat(filepath.Join(lower, "etc/second"), &st2))
	if st.Ino != st2.Ino {
		t.Error("the hard link is a copy")
	}
	if st.Uid != 1000 || st.Gid != 1001 || st.Mode&0o7777 != 0o640 {
		t.Errorf("owner %d:%d mode %o", st.Uid, st.Gid, st.Mode)
	}
	if got := time.Unix(st.Mtim.Unix()); !got.Equal(when) {
		t.Errorf("time %v, want %v", got, when)
	}
	must(t, unix.Lstat(filepath.Join(lower, "locked"), &st))
	if got := time.Unix(st.Mtim.Unix()); !got.Equal(when) || st.Mode&0o7777 != 0o500 {
		t.Errorf("directory: time %v mode %o", got, st.Mode)
	}
	must(t, unix.Lstat(filepath.Join(lower, "bin/tool"), &st))
	if st.Mode&unix.S_ISUID == 0 {
		t.Error("the set-user-id bit is lost")
	}
	must(t, unix.Lstat(filepath.Join(lower, "fifo"), &st))
	if st.Mode != unix.S_IFIFO|0o620 {
		t.Errorf("fifo has mode %o", st.Mode)
	}
	if link, err := os.Readlink(filepath.Join(lower, "etc/link")); err != nil || link != "/etc/passwd" {
		t.Errorf("link %q, %v", link, err)
	}
}

func TestPackRefusesWhatItCannotCarry(t *testing.T) {
	needRoot(t)
	for name, make := range map[string]func(dir string) error{
		"device":   func(d string) error { return unix.Mknod(d+"/x", unix.S_IFBLK|0o600, 1<<8) },
		"wh name":  func(d string) error { return os.WriteFile(d+"/.wh.x", nil, 0o600) },
		"metacopy": func(d string) error { return setOverlay(d, "metacopy") },
		"redirect": func(d string) error { return setOverlay(d, "redirect") },
	} {
		dir := t.TempDir()
		must(t, make(dir))
		_, err := pack(dir, true, io.Discard, nil)
		if !errors.Is(err, ErrNotPackable) {
			t.Errorf("%s: %v, want ErrNotPackable", name, err)
		}
	}
}

func setOverlay(dir, what string) error {
	if err := os.Mkdir(dir+"/x", 0o700); err != nil {
		return err
	}
	return unix.Setxattr(dir+"/x", "trusted.overlay."+what, []byte("y"), 0)
}

func TestShmNamesAreNotWhiteouts(t *testing.T) {
	src, dst := t.TempDir(), t.TempDir()
	write(t, filepath.Join(src, ".wh.queue"), "data", 0o600)
	must(t, newUnpacker(openRoot(t, dst), false, 1<<20).unpack(context.Background(), bytes.NewReader(packed(t, src, false))))
	if got, err := os.ReadFile(filepath.Join(dst, ".wh.queue")); err != nil || string(got) != "data" {
		t.Errorf("%q, %v", got, err)
	}
}

func archiveOf(t *testing.T, hdrs ...*tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range hdrs {
		must(t, w.WriteHeader(h))
		_, err := w.Write(make([]byte, h.Size))
		must(t, err)
	}
	must(t, w.Close())
	return b.Bytes()
}

func TestHostileArchivesTouchNothingOutside(t *testing.T) {
	uid, gid := os.Getuid(), os.Getgid()
	file := func(name string) *tar.Header {
		return &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: 4, Mode: 0o666, Uid: uid, Gid: gid}
	}
	for name, hdrs := range map[string][]*tar.Header{
		"absolute":             {file("/victim/file")},
		"dotdot":               {file("a/../../victim/file")},
		"dotdot inside":        {file("a/../b")},
		"through a link":       {{Typeflag: tar.TypeSymlink, Name: "l", Linkname: "../victim", Uid: uid, Gid: gid}, file("l/file")},
		"through an absolute":  {{Typeflag: tar.TypeSymlink, Name: "l", Linkname: "VICTIM", Uid: uid, Gid: gid}, file("l/file")},
		"hard link out":        {{Typeflag: tar.TypeLink, Name: "h", Linkname: "../victim/file"}},
		"hard link via a link": {{Typeflag: tar.TypeSymlink, Name: "l", Linkname: "../victim", Uid: uid, Gid: gid}, {Typeflag: tar.TypeLink, Name: "h", Linkname: "l/file"}},
		"whiteout of parent":   {file(".wh...")},
		"whiteout via a link":  {{Typeflag: tar.TypeSymlink, Name: "l", Linkname: "../victim", Uid: uid, Gid: gid}, {Typeflag: tar.TypeReg, Name: "l/.wh.file"}},
		"opaque via a link":    {{Typeflag: tar.TypeSymlink, Name: "l", Linkname: "../victim", Uid: uid, Gid: gid}, {Typeflag: tar.TypeReg, Name: "l/.wh..wh..opq"}},
		"device":               {{Typeflag: tar.TypeChar, Name: "null", Devmajor: 1, Devminor: 3}},
		"block device":         {{Typeflag: tar.TypeBlock, Name: "sda", Devmajor: 8}},
		"the same name twice":  {file("f"), file("f")},
		"the same in disguise": {file("a/f"), file("./a//f")},
		"trusted attribute": {{Typeflag: tar.TypeReg, Name: "f", Uid: uid, Gid: gid, Format: tar.FormatPAX,
			PAXRecords: map[string]string{"SCHILY.xattr.trusted.overlay.opaque": "y"}}},
	} {
		top := t.TempDir()
		root, victim := filepath.Join(top, "root"), filepath.Join(top, "victim")
		must(t, os.Mkdir(root, 0o755))
		write(t, filepath.Join(victim, "file"), "precious", 0o600)
		for _, h := range hdrs {
			if h.Linkname == "VICTIM" {
				h.Linkname = victim
			}
		}
		err := newUnpacker(openRoot(t, root), true, 1<<20).unpack(context.Background(), bytes.NewReader(archiveOf(t, hdrs...)))
		if !errors.Is(err, ErrHostile) || runtime.RefusalOf(err) != runtime.RefusedArchive {
			t.Errorf("%s: got %v, want a refusal", name, err)
		}
		got, rerr := os.ReadFile(filepath.Join(victim, "file"))
		fi, serr := os.Stat(filepath.Join(victim, "file"))
		if rerr != nil || serr != nil || string(got) != "precious" || fi.Mode().Perm() != 0o600 {
			t.Errorf("%s: the victim is %q, %v, %v", name, got, rerr, serr)
		}
		if entries, _ := os.ReadDir(victim); len(entries) != 1 {
			t.Errorf("%s: the victim's directory has %v", name, entries)
		}
	}
}

func TestHardLinkToALinkDoesNotChangeItsTarget(t *testing.T) {
	uid, gid := os.Getuid(), os.Getgid()
	top := t.TempDir()
	root, victim := filepath.Join(top, "root"), filepath.Join(top, "victim")
	must(t, os.Mkdir(root, 0o755))
	write(t, victim, "precious", 0o600)
	a := archiveOf(t,
		&tar.Header{Typeflag: tar.TypeSymlink, Name: "l", Linkname: victim, Uid: uid, Gid: gid},
		&tar.Header{Typeflag: tar.TypeLink, Name: "h", Linkname: "l", Mode: 0o777, Uid: uid, Gid: gid},
	)
	// Whether it is refused or made, the target stays as it is.
	_ = newUnpacker(openRoot(t, root), true, 1<<20).unpack(context.Background(), bytes.NewReader(a))
	if fi, err := os.Stat(victim); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("the victim's mode is %v, %v", fi.Mode(), err)
	}
}

// sparseBomb is an archive of two kilobytes whose file has a terabyte, all but a
// byte of it a hole (the GNU format, version 1.0).
func sparseBomb(t testing.TB) []byte {
	t.Helper()
	const size = 1 << 40
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	sparse := fmt.Appendf(nil, "1\n%d\n1\n", size-1)
	data := append(sparse, make([]byte, 512-len(sparse))...)
	data = append(data, 'x')
	hdr := &tar.Header{Typeflag: tar.TypeReg, Name: "f", Mode: 0o600, Uid: os.Getuid(), Gid: os.Getgid(), Size: int64(len(data)), Format: tar.FormatPAX,
		// Of the same length as the real keys, which the writer would not take.
		PAXRecords: map[string]string{"GNU.sparsX.major": "1", "GNU.sparsX.minor": "0", "GNU.sparsX.name": "f", "GNU.sparsX.realsize": strconv.Itoa(size)}}
	if err := errors.Join(w.WriteHeader(hdr)); err != nil {
		t.Fatal(err)
	}
	_, err := w.Write(data)
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return bytes.ReplaceAll(b.Bytes(), []byte("GNU.sparsX."), []byte("GNU.sparse."))
}

func TestAnArchiveNeverBecomesLargerThanItself(t *testing.T) {
	bomb := sparseBomb(t)
	if hdr, err := tar.NewReader(bytes.NewReader(bomb)).Next(); err != nil || hdr.Size != 1<<40 {
		t.Fatalf("the bomb is none: %+v, %v", hdr, err)
	}
	root := t.TempDir()
	err := newUnpacker(openRoot(t, root), true, int64(len(bomb))).unpack(context.Background(), bytes.NewReader(bomb))
	if !errors.Is(err, ErrHostile) || runtime.RefusalOf(err) != runtime.RefusedBomb {
		t.Errorf("got %v", err)
	}
	if left, err := os.ReadDir(root); err != nil || len(left) > 0 {
		t.Errorf("it left %v, %v", left, err)
	}
}

func TestAnArchiveThatIsCutShortIsRefused(t *testing.T) {
	whole := archiveOf(t, &tar.Header{Typeflag: tar.TypeReg, Name: "f", Mode: 0o600, Size: 5000, Uid: os.Getuid(), Gid: os.Getgid()})
	for _, n := range []int{100, 600, 3000} {
		err := newUnpacker(openRoot(t, t.TempDir()), true, int64(n)).unpack(context.Background(), bytes.NewReader(whole[:n]))
		if runtime.RefusalOf(err) == "" {
			t.Errorf("after %d bytes: %v", n, err)
		}
	}
}

func FuzzUnpack(f *testing.F) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "a/b", Mode: 0o600, Uid: os.Getuid(), Gid: os.Getgid()})
	_ = w.Close()
	f.Add(b.Bytes())
	f.Add(sparseBomb(f))
	for _, hdrs := range [][]*tar.Header{
		{{Typeflag: tar.TypeSymlink, Name: "l", Linkname: ".."}, {Typeflag: tar.TypeReg, Name: "l/victim"}},
		{{Typeflag: tar.TypeLink, Name: "h", Linkname: "../victim"}},
		{{Typeflag: tar.TypeReg, Name: ".wh..wh..opq"}, {Typeflag: tar.TypeFifo, Name: "p"}},
		{{Typeflag: tar.TypeChar, Name: "c", Devmajor: 1, Devminor: 5}},
	} {
		b.Reset()
		w := tar.NewWriter(&b)
		for _, h := range hdrs {
			h.Uid, h.Gid = os.Getuid(), os.Getgid()
			if err := w.WriteHeader(h); err != nil {
				f.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			f.Fatal(err)
		}
		f.Add(bytes.Clone(b.Bytes()))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		top := t.TempDir()
		root := filepath.Join(top, "root")
		must(t, os.Mkdir(root, 0o700))
		write(t, filepath.Join(top, "victim"), "precious", 0o600)
		_ = newUnpacker(openRoot(t, root), true, int64(len(data))).unpack(context.Background(), bytes.NewReader(data))
		var total int64
		must(t, filepath.WalkDir(root, func(_ string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if d.Type()&fs.ModeDevice != 0 {
				t.Fatalf("a device was made: %v", d)
			}
			if fi, err := d.Info(); err == nil && fi.Mode().IsRegular() {
				total += fi.Sys().(*syscall.Stat_t).Blocks*statBlock - 1<<16 // of a file's metadata
			}
			return nil
		}))
		if total > int64(len(data)) {
			t.Fatalf("%d bytes came out of %d", total, len(data))
		}
		if got, err := os.ReadFile(filepath.Join(top, "victim")); err != nil || string(got) != "precious" {
			t.Fatalf("the victim is %q, %v", got, err)
		}
		if entries, err := os.ReadDir(top); err != nil || len(entries) != 2 {
			t.Fatalf("beside the root there are %v, %v", entries, err)
		}
	})
}
