// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package files

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// shown is a tree as one can compare it: a line for each name, hard links included.
// Times of directories count only where asked for: an overlay's are not its own.
func shown(t *testing.T, dir string, dirTimes bool) []string {
	t.Helper()
	var lines []string
	first := map[uint64]string{}
	must(t, filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		if rel == "." && !dirTimes {
			return nil
		}
		line := fmt.Sprintf("%q mode %o owner %d:%d", rel, st.Mode, st.Uid, st.Gid)
		isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
		if !isDir || dirTimes {
			line += fmt.Sprintf(" time %d", st.Mtim.Nano())
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %d bytes %x", len(b), maphashOf(b))
		case unix.S_IFLNK:
			to, err := os.Readlink(p)
			if err != nil {
				return err
			}
			line += " -> " + to
		}
		if st.Mode&unix.S_IFMT != unix.S_IFLNK {
			for _, attr := range []string{"user.one", "user.two"} {
				b := make([]byte, 64)
				if n, err := unix.Lgetxattr(p, attr, b); err == nil {
					line += fmt.Sprintf(" %s=%s", attr, b[:n])
				}
			}
		}
		if !isDir && st.Nlink > 1 {
			if f, ok := first[st.Ino]; ok {
				line += " same as " + f
			} else {
				first[st.Ino] = rel
			}
		}
		lines = append(lines, line)
		return nil
	}))
	return lines
}

func maphashOf(b []byte) uint64 {
	h := uint64(14695981039346656037)
	for _, c := range b {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return h
}

// changer does things at random in a directory, which its processes might do.
type changer struct {
	r   *rand.Rand
	dir string
}

// pick is a name that is there, or may be.
func (c *changer) pick() string {
	var names []string
	_ = filepath.WalkDir(c.dir, func(p string, _ fs.DirEntry, err error) error {
		if err == nil && p != c.dir {
			names = append(names, p)
		}
		return nil
	})
	if len(names) == 0 || c.r.IntN(3) == 0 {
		return c.fresh()
	}
	return names[c.r.IntN(len(names))]
}

// fresh is a name in a directory that is there.
func (c *changer) fresh() string {
	dirs := []string{c.dir}
	_ = filepath.WalkDir(c.dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, p)
		}
		return nil
	})
	// Few names, so that they are used again, and some strange ones.
	names := []string{"a", "b", "c", "d", "e", "f", "ü", "with space", "\xff\xfe", "line\nbreak", "-x", strings.Repeat("long", 50)}
	return filepath.Join(dirs[c.r.IntN(len(dirs))], names[c.r.IntN(len(names))])
}

func (c *changer) content() []byte {
	b := make([]byte, []int{0, 1, 100, 5000, blockSize, blockSize + 1, 3*blockSize - 7}[c.r.IntN(7)])
	for i := range b {
		b[i] = byte(c.r.Uint32())
	}
	return b
}

// change does one thing; what cannot be done is no matter.
func (c *changer) change() {
	name := c.pick()
	var st unix.Stat_t
	there := unix.Lstat(name, &st) == nil
	regular := there && st.Mode&unix.S_IFMT == unix.S_IFREG
	link := there && st.Mode&unix.S_IFMT == unix.S_IFLNK
	switch n := c.r.IntN(18); {
	case n < 3 && (!there || regular):
		_ = os.WriteFile(name, c.content(), 0o644)
	case n == 3 && regular: // a log grows
		f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0)
		if err == nil {
			_, _ = f.Write(c.content())
			_ = f.Close()
		}
	case n == 4 && regular: // somewhere in the middle, perhaps far beyond the end
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		if err == nil {
			_, _ = f.WriteAt(c.content(), int64(c.r.IntN(20*blockSize)))
			_ = f.Close()
		}
	case n == 5 && regular:
		_ = os.Truncate(name, int64(c.r.IntN(6*blockSize)))
	case n == 6:
		_ = os.Mkdir(c.fresh(), 0o755)
	case n == 7:
		_ = os.RemoveAll(name)
	case n == 8:
		_ = os.Rename(name, c.fresh())
	case n == 9:
		to := c.fresh()
		_ = os.RemoveAll(to)
		_ = os.Rename(name, to)
	case n == 10:
		_ = os.Link(name, c.fresh())
	case n == 11:
		_ = os.Symlink([]string{"a", "/etc/passwd", "../../../x", "."}[c.r.IntN(4)], c.fresh())
	case n == 12 && !there:
		_ = unix.Mkfifo(name, 0o620)
	case n == 13 && !there:
		_ = unix.Mknod(name, unix.S_IFSOCK|0o751, 0)
	case n == 14 && there && !link:
		_ = os.Chmod(name, fs.FileMode(c.r.IntN(0o1000))|[]fs.FileMode{0, fs.ModeSetuid, fs.ModeSticky}[c.r.IntN(3)])
	case n == 15 && there:
		_ = os.Lchown(name, c.r.IntN(3), c.r.IntN(3))
	case n == 16 && there && !link:
		attr := []string{"user.one", "user.two"}[c.r.IntN(2)]
		if c.r.IntN(3) == 0 {
			_ = unix.Removexattr(name, attr)
		} else {
			_ = unix.Setxattr(name, attr, []byte{byte('a' + c.r.IntN(26))}, 0)
		}
	case n == 17 && regular: // a hole where something was
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if err == nil {
			_ = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 2*blockSize)
			_ = f.Close()
		}
	}
}

// travel packs a tree again and again while it changes, applies the archives, some of
// them more than once, and compares.
func travel(t *testing.T, seed uint64, source, upper, target string, overlay bool) {
	t.Helper()
	c := &changer{r: rand.New(rand.NewPCG(seed, 0)), dir: source}
	var since *copied
	var archives [][]byte
	apply := func(b []byte) {
		if len(b) > 0 {
			must(t, newUnpacker(openRoot(t, target), overlay, int64(len(b))).unpack(context.Background(), bytes.NewReader(b)))
		}
	}
	for range 2 + c.r.IntN(4) {
		for range c.r.IntN(40) {
			c.change()
		}
		root, err := os.OpenFile(upper, unix.O_PATH|unix.O_DIRECTORY, 0)
		must(t, err)
		var b bytes.Buffer
		// As if it went on: what was changed shortly before counts as racy.
		p := &packer{root: root, out: &b, overlay: overlay, since: since, busy: &busy{}, racyFrom: time.Now().Add(-clockSlack)}
		since, err = p.pack(context.Background())
		must(t, errors.Join(err, root.Close()))
		if c.r.IntN(4) == 0 { // the agent was restarted
			saved, err := since.MarshalBinary()
			must(t, err)
			loaded, err := (&Files{}).Load(saved)
			must(t, err)
			since = loaded.(*copied)
		}
		archives = append(archives, b.Bytes())
		apply(b.Bytes())
		if c.r.IntN(4) == 0 { // the other agent was restarted, and begins anew
			for _, a := range archives {
				apply(a)
			}
		}
	}
	for range c.r.IntN(20) {
		c.change()
	}
	var b bytes.Buffer
	_, err := pack(upper, overlay, &b, since)
	must(t, err)
	apply(b.Bytes())
	want, got := shown(t, source, !overlay), shown(t, target, !overlay)
	if !slices.Equal(want, got) {
		for _, l := range want {
			if !slices.Contains(got, l) {
				t.Errorf("is not there: %s", l)
			}
		}
		for _, l := range got {
			if !slices.Contains(want, l) {
				t.Errorf("is there:     %s", l)
			}
		}
		t.Fatalf("seed %d", seed)
	}
}

const trees = 60

func TestRandomTreesArrive(t *testing.T) {
	needRoot(t)
	for seed := range uint64(trees) {
		source := t.TempDir()
		travel(t, seed, source, source, t.TempDir(), false)
	}
}

func mountOverlay(t *testing.T, lower, upper, work, at string) {
	t.Helper()
	err := unix.Mount("overlay", at, "overlay", 0, "lowerdir="+lower+",upperdir="+upper+",workdir="+work)
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EINVAL) {
		t.Skipf("NOT RUN: needs an overlay mount: %v", err)
	}
	must(t, err)
	t.Cleanup(func() { must(t, unix.Unmount(at, unix.MNT_DETACH)) })
}

func TestRandomRootFileSystemsArrive(t *testing.T) {
	needRoot(t)
	for seed := range uint64(trees / 3) {
		t.Run("", func(t *testing.T) {
			top := overlayDir(t)
			var d []string
			for _, n := range []string{"lower", "upper", "work", "merged", "upper2", "work2", "merged2"} {
				d = append(d, filepath.Join(top, n))
				must(t, os.Mkdir(d[len(d)-1], 0o755))
			}
			image := &changer{r: rand.New(rand.NewPCG(seed, 1)), dir: d[0]}
			for range 60 {
				image.change()
			}
			mountOverlay(t, d[0], d[1], d[2], d[3])
			mountOverlay(t, d[0], d[4], d[5], d[6])
			travel(t, seed, d[3], d[1], d[6], true)
		})
	}
}

// overlayDir is a directory whose file system an overlay can be made of.
func overlayDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	err := unix.Mount("tmpfs", dir, "tmpfs", 0, "")
	if errors.Is(err, unix.EPERM) {
		t.Skip("NOT RUN: needs the right to mount")
	}
	must(t, err)
	t.Cleanup(func() { must(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	return dir
}
