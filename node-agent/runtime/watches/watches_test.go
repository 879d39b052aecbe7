// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package watches

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func watch(t *testing.T, names ...string) {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	for _, name := range names {
		if _, err := unix.InotifyAddWatch(fd, name, unix.IN_MODIFY); err != nil {
			t.Fatal(err)
		}
	}
}

func make2(t *testing.T, root string) (dir, file string) {
	t.Helper()
	dir, file = filepath.Join(root, "a/watched"), filepath.Join(root, "a/deep/file")
	for _, d := range []string{dir, filepath.Dir(file)} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir, file
}

func found(t *testing.T, root string) []string {
	t.Helper()
	list, err := Of([]int{os.Getpid()})
	if err != nil {
		t.Fatal(err)
	}
	paths, err := Paths(t.Context(), root, list)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for w, name := range paths {
		names = append(names, name)
		if !Is(root, name, w) || Is(root, name, Watch{Dev: w.Dev, Ino: w.Ino + 1}) {
			t.Errorf("%s is not %s", name, w)
		}
	}
	slices.Sort(names)
	return names
}

func TestWatchesAreFound(t *testing.T) {
	root := t.TempDir()
	dir, file := make2(t, root)
	watch(t, dir, file, root)
	if got := found(t, root); !slices.Equal(got, []string{"/", "/a/deep/file", "/a/watched"}) {
		t.Errorf("found %q", got)
	}
}

// As in a container.
func TestWatchesInAnOverlay(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts")
	}
	top := t.TempDir()
	if err := unix.Mount("tmpfs", top, "tmpfs", 0, ""); err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(top, unix.MNT_DETACH) })
	root := filepath.Join(top, "merged")
	for _, d := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(top, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	make2(t, filepath.Join(top, "lower"))
	options := fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", top)
	if err := unix.Mount("overlay", root, "overlay", 0, options); err != nil {
		t.Skip(err)
	}
	// One file of the image, one directory that was changed, one that is new.
	dir, file := make2(t, root)
	if err := os.WriteFile(filepath.Join(dir, "new"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	own := filepath.Join(root, "own")
	if err := os.Mkdir(own, 0o755); err != nil {
		t.Fatal(err)
	}
	watch(t, dir, file, own)
	if got := found(t, root); !slices.Equal(got, []string{"/a/deep/file", "/a/watched", "/own"}) {
		t.Errorf("found %q", got)
	}
}

func TestWhatHasNoPathIsMissing(t *testing.T) {
	root := t.TempDir()
	dir, file := make2(t, root)
	odd := filepath.Join(root, "a b")
	if err := os.Mkdir(odd, 0o755); err != nil {
		t.Fatal(err)
	}
	open, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	watch(t, dir, file, odd)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if got := found(t, root); !slices.Equal(got, []string{"/a/watched"}) {
		t.Errorf("found %q", got)
	}
}

func TestParse(t *testing.T) {
	got, err := parse("pos:\t0\nflags:\t02\ninotify wd:1 ino:2b6 sdev:800013 mask:2 ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:0\n" +
		"fanotify flags:10 event-flags:0\nfanotify ino:4f sdev:34 mflags:0 mask:3b ignored_mask:40 fhandle-bytes:8\nfanotify mnt_id:12 mflags:0 mask:3b\n")
	if want := []Watch{{0x800013, 0x2b6}, {0x34, 0x4f}}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	if got[0].String() != "inode 694 of device 8:19" {
		t.Errorf("%s", got[0])
	}
	if _, err := parse("inotify wd:1 ino:zz sdev:1\n"); err == nil {
		t.Error("no error")
	}
}

func TestProcessesThatAreGone(t *testing.T) {
	cmd := exec.Command("true")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	if got, err := Of([]int{cmd.Process.Pid}); err != nil || len(got) != 0 {
		t.Errorf("%v, %v", got, err)
	}
	if strings.Contains(fmt.Sprint(nameable("/a/b.c-d_e")), "false") || nameable("/a b") || nameable("/a#b") {
		t.Error("nameable")
	}
}
