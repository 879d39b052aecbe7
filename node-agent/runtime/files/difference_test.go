// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package files

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/node-agent/runtime"
)

// packAgain packs a tree that goes on to be written.
func packAgain(t *testing.T, dir string, since *copied, b *busy, racyFrom time.Time) (*copied, []byte) {
	t.Helper()
	root, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	must(t, err)
	defer root.Close()
	var out bytes.Buffer
	now, err := (&packer{root: root, out: &out, since: since, busy: b, racyFrom: racyFrom}).pack(context.Background())
	must(t, err)
	return now, out.Bytes()
}

func names(t *testing.T, archive []byte) map[string]int64 {
	t.Helper()
	found := map[string]int64{}
	if len(archive) == 0 {
		return found
	}
	r := tar.NewReader(bytes.NewReader(archive))
	for {
		hdr, err := r.Next()
		if err != nil {
			return found
		}
		found[hdr.Name] = hdr.Size
	}
}

func TestOnlyBlocksThatChangedArePackedAgain(t *testing.T) {
	src, dst := t.TempDir(), t.TempDir()
	content := bytes.Repeat([]byte("0123456789abcdef"), 64<<10) // 1 MiB
	write(t, filepath.Join(src, "db"), string(content), 0o600)
	write(t, filepath.Join(src, "log"), string(content), 0o600)
	write(t, filepath.Join(src, "quiet"), "quiet", 0o600)
	later := time.Now().Add(time.Hour) // nothing is racy
	since, first := packAgain(t, src, nil, &busy{}, later)
	db, err := os.OpenFile(filepath.Join(src, "db"), os.O_WRONLY, 0)
	must(t, err)
	_, err = db.WriteAt([]byte("changed"), 500000)
	must(t, errors.Join(err, db.Close()))
	log, err := os.OpenFile(filepath.Join(src, "log"), os.O_WRONLY|os.O_APPEND, 0)
	must(t, err)
	_, err = log.WriteString("one more line")
	must(t, errors.Join(err, log.Close()))
	_, second := packAgain(t, src, since, &busy{}, later)
	found := names(t, second)
	if _, ok := found["quiet"]; ok || found["db"] > blockSize+100 || found["log"] > blockSize+100 || len(found) > 3 {
		t.Errorf("packed again: %v", found)
	}
	for _, a := range [][]byte{first, second} {
		must(t, newUnpacker(openRoot(t, dst), false, int64(len(a))).unpack(context.Background(), bytes.NewReader(a)))
	}
	for _, name := range []string{"db", "log", "quiet"} {
		want, err := os.ReadFile(filepath.Join(src, name))
		must(t, err)
		if got, err := os.ReadFile(filepath.Join(dst, name)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s has %d bytes, %v", name, len(got), err)
		}
	}
}

// A page of a shared mapping that was written before can be written again without a trace
// in the file's times.
func TestWhatIsWrittenThroughAMappingIsFound(t *testing.T) {
	for _, how := range []string{"mapped", "open"} {
		t.Run(how, func(t *testing.T) {
			src := t.TempDir()
			name := filepath.Join(src, "f")
			write(t, name, string(make([]byte, 3*blockSize)), 0o600)
			f, err := os.OpenFile(name, os.O_RDWR, 0)
			must(t, err)
			defer f.Close()
			mem, err := unix.Mmap(int(f.Fd()), 0, 3*blockSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			must(t, err)
			defer func() { must(t, unix.Munmap(mem)) }()
			mem[0] = 1
			b := &busy{inodes: map[uint64]bool{}, paths: map[string]bool{}}
			if how == "mapped" {
				must(t, b.mapped(os.Getpid()))
			} else {
				must(t, b.open(os.Getpid()))
			}
			later := time.Now().Add(time.Hour)
			since, _ := packAgain(t, src, nil, b, later)
			if !since.records["f"].Busy {
				t.Fatal("the file does not count as busy")
			}
			var before, after unix.Stat_t
			must(t, unix.Stat(name, &before))
			mem[2*blockSize+5] = 7
			mem[0] = 2
			// As if it had left no trace, which it may not have.
			must(t, unix.Stat(name, &after))
			since.records["f"].Modified, since.records["f"].Changed = after.Mtim.Nano(), after.Ctim.Nano()
			_, again := packAgain(t, src, since, &busy{}, later)
			if size := names(t, again)["f"]; size < 2*blockSize || size > 2*blockSize+100 {
				t.Errorf("%d bytes were packed of two blocks that changed", size)
			}
		})
	}
}

func TestWhatWasChangedJustNowIsLookedAtAgain(t *testing.T) {
	src := t.TempDir()
	write(t, filepath.Join(src, "f"), "content", 0o600)
	since, _ := packAgain(t, src, nil, &busy{}, time.Now().Add(-time.Hour))
	if !since.records["f"].Racy {
		t.Fatal("the file does not count as racy")
	}
	// Another content at the same time.
	write(t, filepath.Join(src, "f"), "CONTENT", 0o600)
	var st unix.Stat_t
	must(t, unix.Stat(filepath.Join(src, "f"), &st))
	since.records["f"].Modified, since.records["f"].Changed = st.Mtim.Nano(), st.Ctim.Nano()
	now, again := packAgain(t, src, since, &busy{}, time.Now().Add(time.Hour))
	if _, ok := names(t, again)["f"]; !ok {
		t.Error("it was not looked at")
	}
	if _, again := packAgain(t, src, now, &busy{}, time.Now().Add(time.Hour)); len(again) != 0 {
		t.Errorf("nothing has changed, and %v was packed", names(t, again))
	}
}

func TestSocketsAndHolesArrive(t *testing.T) {
	needRoot(t)
	src, dst := t.TempDir(), t.TempDir()
	must(t, unix.Mknod(filepath.Join(src, "socket"), unix.S_IFSOCK|0o711, 0))
	must(t, os.Chown(filepath.Join(src, "socket"), 5, 6))
	f, err := os.Create(filepath.Join(src, "sparse"))
	must(t, err)
	_, err = f.WriteAt([]byte("end"), 100<<20)
	must(t, errors.Join(err, f.Close()))
	must(t, os.Chmod(src, 0o777|os.ModeSticky))
	archive := packed(t, src, false)
	if len(archive) > 1<<20 {
		t.Errorf("the archive has %d bytes", len(archive))
	}
	must(t, newUnpacker(openRoot(t, dst), false, int64(len(archive))).unpack(context.Background(), bytes.NewReader(archive)))
	var st unix.Stat_t
	must(t, unix.Lstat(filepath.Join(dst, "socket"), &st))
	if st.Mode != unix.S_IFSOCK|0o711 || st.Uid != 5 || st.Gid != 6 {
		t.Errorf("the socket has mode %o and owner %d:%d", st.Mode, st.Uid, st.Gid)
	}
	must(t, unix.Stat(filepath.Join(dst, "sparse"), &st))
	if st.Size != 100<<20+3 || st.Blocks*statBlock > 1<<20 {
		t.Errorf("the sparse file has %d bytes in %d blocks", st.Size, st.Blocks)
	}
	must(t, unix.Stat(dst, &st))
	if st.Mode&0o7777 != 0o1777 {
		t.Errorf("the directory itself has mode %o", st.Mode)
	}
}

func TestHostileParts(t *testing.T) {
	uid, gid := os.Getuid(), os.Getgid()
	entry := func(size string, patch bool, numbers ...uint64) []byte {
		var content []byte
		for _, n := range numbers {
			content = binary.LittleEndian.AppendUint64(content, n)
		}
		content = append(content, make([]byte, 64)...)
		hdr := &tar.Header{Typeflag: tar.TypeReg, Name: "f", Mode: 0o600, Uid: uid, Gid: gid, Size: int64(len(content)),
			PAXRecords: map[string]string{recordSize: size}}
		if patch {
			hdr.PAXRecords[recordPatch] = "1"
		}
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		must(t, w.WriteHeader(hdr))
		_, err := w.Write(content)
		must(t, errors.Join(err, w.Close()))
		return b.Bytes()
	}
	record := func(kind byte, key, value string) []byte {
		return archiveOf(t, &tar.Header{Typeflag: kind, Name: "f", Linkname: "g", Uid: uid, Gid: gid, PAXRecords: map[string]string{key: value}})
	}
	const huge = 1 << 62
	for name, archive := range map[string][]byte{
		"no such number":       entry("x", false, 0),
		"a negative size":      entry("-1", false, 0),
		"more than there is":   entry("1000", false, huge, 0, 64),
		"beyond the end":       entry("10", false, 1, 0, 64),
		"far beyond":           entry(strconv.Itoa(huge), false, 1, huge, 64),
		"out of the numbers":   entry(strconv.Itoa(huge), false, 1, 1<<63, 64),
		"length overflows":     entry(strconv.Itoa(huge), false, 1, 0, 1<<63),
		"twice":                entry("1000", false, 2, 0, 32, 0, 32),
		"backwards":            entry("1000", false, 2, 100, 32, 0, 32),
		"nothing":              entry("1000", false, 1, 0, 0),
		"less than it has":     entry("1000", false, 1, 0, 32),
		"of nothing":           entry("1000", true, 1, 0, 64),
		"without a size":       record(tar.TypeReg, recordPatch, "1"),
		"unknown kind":         record(tar.TypeReg, recordKind, "device"),
		"unknown record":       record(tar.TypeReg, recordPrefix+"exec", "x"),
		"record of a link":     record(tar.TypeSymlink, recordKind, kindRemoved),
		"record of a hard one": record(tar.TypeLink, recordSize, "1"),
	} {
		root := t.TempDir()
		err := newUnpacker(openRoot(t, root), false, int64(len(archive))).unpack(context.Background(), bytes.NewReader(archive))
		if runtime.RefusalOf(err) != runtime.RefusedArchive {
			t.Errorf("%s: %v", name, err)
		}
	}
	// What is removed is in the tree.
	top := t.TempDir()
	must(t, os.Mkdir(filepath.Join(top, "root"), 0o755))
	write(t, filepath.Join(top, "victim", "file"), "precious", 0o600)
	must(t, os.Symlink("../victim", filepath.Join(top, "root", "l")))
	gone := archiveOf(t, &tar.Header{Typeflag: tar.TypeReg, Name: "l/file", PAXRecords: map[string]string{recordKind: kindRemoved}})
	err := newUnpacker(openRoot(t, filepath.Join(top, "root")), false, 1<<20).unpack(context.Background(), bytes.NewReader(gone))
	if runtime.RefusalOf(err) != runtime.RefusedArchive {
		t.Errorf("removed through a link: %v", err)
	}
	if _, err := os.Stat(filepath.Join(top, "victim", "file")); err != nil {
		t.Errorf("the victim: %v", err)
	}
}

func TestAFileThatVanishesIsLeftOut(t *testing.T) {
	src := t.TempDir()
	write(t, filepath.Join(src, "a"), "a", 0o600)
	root, err := os.OpenFile(src, unix.O_PATH|unix.O_DIRECTORY, 0)
	must(t, err)
	defer root.Close()
	p := &packer{root: root, out: &bytes.Buffer{}, busy: &busy{}, now: &copied{records: map[string]*record{}}, since: &copied{}}
	e := entry{name: "gone"}
	e.st.Mode = unix.S_IFREG
	if err := p.entry(&e, whole); !vanished(err) || p.now.records["gone"] != nil {
		t.Errorf("got %v", err)
	}
	p.still = true
	if _, err := scan(context.Background(), root, false, true); err != nil {
		t.Error(err)
	}
}

func TestWhatCannotBePackedIsSeenBefore(t *testing.T) {
	needRoot(t)
	size := func(dir string) error {
		root, err := os.Open(dir)
		must(t, err)
		defer root.Close()
		_, err = sizeOf(context.Background(), root, false)
		return err
	}
	dir := t.TempDir()
	write(t, filepath.Join(dir, "plain"), "plain", 0o600)
	must(t, size(dir))
	must(t, unix.Mknod(filepath.Join(dir, "null"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))))
	if err := size(dir); !errors.Is(err, runtime.ErrNotPackable) {
		t.Errorf("a device: %v", err)
	}
	deep := t.TempDir()
	d, err := unix.Open(deep, unix.O_DIRECTORY|unix.O_RDONLY, 0)
	must(t, err)
	for range maxDepth + 1 {
		must(t, unix.Mkdirat(d, "d", 0o700))
		sub, err := unix.Openat(d, "d", unix.O_DIRECTORY|unix.O_RDONLY, 0)
		must(t, errors.Join(err, unix.Close(d)))
		d = sub
	}
	must(t, unix.Close(d))
	if err := size(deep); !errors.Is(err, runtime.ErrNotPackable) {
		t.Errorf("a deep tree: %v", err)
	}
}

// A volume with a size is full of what is packed of it again.
func TestWhatIsThereIsRoomForWhatReplacesIt(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=4m")
	if errors.Is(err, unix.EPERM) {
		t.Skip("NOT RUN: needs the right to mount")
	}
	must(t, err)
	defer func() { must(t, unix.Unmount(dir, unix.MNT_DETACH)) }()
	fits := func(bytes int64) error {
		d, err := os.Open(dir)
		must(t, err)
		defer d.Close()
		return room(context.Background(), d, bytes)
	}
	must(t, fits(3<<20))
	if err := fits(5 << 20); !errors.Is(err, runtime.ErrNoSpace) {
		t.Errorf("more than there is: %v", err)
	}
	write(t, filepath.Join(dir, "f"), string(make([]byte, 3<<20)), 0o600)
	must(t, fits(3<<20))
	if err := fits(5 << 20); !errors.Is(err, runtime.ErrNoSpace) {
		t.Errorf("more than there is, when it is full: %v", err)
	}
}
