// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package criu

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"time"

	"github.com/checkpoint-restore/go-criu/v7/crit"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/inventory"
	"golang.org/x/sys/unix"

	"godwit.dev/godwit/node-agent/runtime"
	"godwit.dev/godwit/node-agent/runtime/host"
)

// ErrImageDir means that the options of a dump do not fit what is on the
// volume. It is a mistake of the caller; nothing was touched.
var ErrImageDir = errors.New("unusable image directory")

// dirs are the open directories of a dump.
type dirs struct {
	images, work *os.File
	// pages is the directory that takes the memory, nil when images does.
	pages *os.File
}

func (d dirs) Close() {
	for _, f := range []*os.File{d.images, d.work, d.pages} {
		if f != nil {
			f.Close()
		}
	}
}

// openDirs creates and opens the directories of a dump. CRIU keeps files and a
// parent link that it finds, so the image directory must be empty.
func openDirs(h *host.Host, o runtime.DumpOptions) (dirs, error) {
	if err := checkParent(h, o); err != nil {
		return dirs{}, err
	}
	images, err := h.MkdirAll(o.ImageDir, 0o700)
	if err != nil {
		return dirs{}, noSpace(fmt.Errorf("create the image directory: %w", err))
	}
	names, err := images.Readdirnames(1)
	if len(names) > 0 {
		images.Close()
		return dirs{}, fmt.Errorf("%w: %s is not empty", ErrImageDir, o.ImageDir)
	}
	if _, serr := images.Seek(0, 0); serr != nil {
		images.Close()
		return dirs{}, errors.Join(err, serr)
	}
	d := dirs{images: images}
	if d.work, err = h.MkdirAll(o.WorkDir, 0o700); err != nil {
		d.Close()
		return dirs{}, noSpace(fmt.Errorf("create the work directory: %w", err))
	}
	if o.PagesDir == "" {
		return d, nil
	}
	if d.pages, err = h.Open(o.PagesDir, unix.O_DIRECTORY, 0); err == nil {
		err = linkPages(images, o)
	}
	if err != nil {
		d.Close()
		return dirs{}, noSpace(fmt.Errorf("have the memory elsewhere: %w", err))
	}
	return d, nil
}

// pageLinks is how many files with memory find a place in PagesDir. CRIU numbers them
// from 1, one for each process and for each piece of shared memory; what there is more of
// it makes in the image directory.
const pageLinks = 256

// linkPages makes the links by which CRIU's files with memory come to be in PagesDir:
// it opens what it makes without looking what is there (criu/image.c, do_open_image).
// They are relative: a restore opens them when it is in the container's root already.
func linkPages(images *os.File, o runtime.DumpOptions) error {
	to, err := filepath.Rel(o.ImageDir, o.PagesDir)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrImageDir, err)
	}
	for i := 1; i <= pageLinks; i++ {
		name := fmt.Sprintf("pages-%d.img", i)
		if err := os.Symlink(filepath.Join(to, name), filepath.Join(host.FDPath(images), name)); err != nil {
			return err
		}
	}
	return nil
}

// checkParent refuses a parent that CRIU would take for "no parent" (then it
// would silently write everything) or that lies outside the image's directory.
func checkParent(h *host.Host, o runtime.DumpOptions) error {
	if !path.IsAbs(o.ImageDir) || !path.IsAbs(o.WorkDir) {
		return fmt.Errorf("%w: image and work directory must be absolute", ErrImageDir)
	}
	if o.Parent == "" {
		return nil
	}
	if dir, base := path.Split(o.Parent); dir != "../" || base == "" || base == "." || base == ".." {
		return fmt.Errorf("%w: parent %q is not a sibling (\"../name\")", ErrImageDir, o.Parent)
	}
	f, err := h.Open(path.Join(o.ImageDir, o.Parent, "inventory.img"), unix.O_PATH, 0)
	if err != nil {
		return fmt.Errorf("%w: parent %q has no inventory: %w", ErrImageDir, o.Parent, err)
	}
	return f.Close()
}

// kind of a dump.
type kind int

const (
	preDump kind = iota
	final
)

// collect verifies that a dump is whole and gathers its measurements.
func collect(d dirs, o runtime.DumpOptions, k kind, s *runtime.DumpStats) error {
	img := host.FDPath(d.images)
	if err := checkInventory(filepath.Join(img, "inventory.img"), k); err != nil {
		return err
	}
	link, err := os.Readlink(filepath.Join(img, "parent"))
	if o.Parent == "" && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("unexpected parent link %q (%w)", link, err)
	}
	if o.Parent != "" && (err != nil || link != o.Parent) {
		return fmt.Errorf("the parent link is %q, not %q (%w)", link, o.Parent, err)
	}
	if k == final {
		if err := rearmTimers(img); err != nil {
			return fmt.Errorf("have timers go on: %w", err)
		}
	}
	if s.Bytes, err = d.size(); err != nil {
		return err
	}
	st, err := crit.GetDumpStats(host.FDPath(d.work))
	if err != nil {
		return fmt.Errorf("read the dump's statistics: %w", err)
	}
	if st == nil {
		return errors.New("the dump's statistics are empty")
	}
	s.Frozen = time.Duration(st.GetFrozenTime()+st.GetFreezingTime()) * time.Microsecond
	s.PagesScanned = int64(st.GetPagesScanned() + st.GetShpagesScanned())
	s.PagesSkipped = int64(st.GetPagesSkippedParent() + st.GetShpagesSkippedParent())
	s.PagesWritten = int64(st.GetPagesWritten() + st.GetShpagesWritten())
	s.MemoryBytes = s.PagesWritten * int64(os.Getpagesize())
	return nil
}

// checkInventory reads the file that CRIU writes last. It tells the two kinds of
// dump apart: that of a pre-dump has the mode of the pre-dump and no version.
func checkInventory(name string, k kind) error {
	f, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("the dump has no inventory: %w", err)
	}
	defer f.Close()
	img, err := crit.New(f, nil, "", false, true).Decode(&inventory.InventoryEntry{})
	if err != nil {
		return fmt.Errorf("read the inventory: %w", err)
	}
	if len(img.Entries) != 1 {
		return fmt.Errorf("the inventory has %d entries", len(img.Entries))
	}
	e, ok := img.Entries[0].Message.(*inventory.InventoryEntry)
	if !ok || k == final && (e.GetImgVersion() == 0 || e.PreDumpMode != nil) || k == preDump && e.PreDumpMode == nil {
		return fmt.Errorf("the inventory is not that of such a dump: %v", e)
	}
	return nil
}

// size sums up the files of a dump.
func (d dirs) size() (int64, error) {
	n, err := size(host.FDPath(d.images))
	if err != nil || d.pages == nil {
		return n, err
	}
	pages, err := size(host.FDPath(d.pages))
	return n + pages, err
}

// size sums up the files of a directory.
func size(dir string) (int64, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	var n int64
	for _, e := range entries {
		if !e.Type().IsRegular() {
			continue
		}
		fi, err := e.Info()
		if err != nil {
			return 0, err
		}
		n += fi.Size()
	}
	return n, nil
}

// noSpace marks an error that comes from a full disk.
func noSpace(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("%w: %w", runtime.ErrNoSpace, err)
	}
	return err
}
