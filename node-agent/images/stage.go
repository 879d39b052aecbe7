// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package images

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/node-agent/runtime"
)

// A final dump is some forty files, of which all but those with memory are small. On a
// network file system each costs several round trips to make, to make durable and to
// read, and the pod stands still meanwhile. So it is made on the node, with links in the
// place of the files with memory, which go to the volume as they are written; the others
// follow as one file. Who restores it has them on the node again.
const (
	// packName is the file of a final dump that has all that is not memory.
	packName = "images.tar"
	// maxPack bounds it, and what is unpacked of it, in bytes: files that have no name any
	// more and what a pod keeps in its /dev are a part of it.
	maxPack = 512 << 20

	tempSuffix = ".tmp"
)

// StageFinal makes an empty directory for the final dump of a container, in stage, a
// directory of the node itself, which is emptied: dump is for the dump, and pages takes its
// files with memory. rounds have been made, and the last of them is found from dump as
// [Parent] says. [Set.Seal] brings what lies in dump to the volume.
func (s *Set) StageFinal(ctx context.Context, container string, rounds int, stage string) (dump, pages string, err error) {
	if pages, err = s.PrepareFinal(ctx, container); err != nil {
		return "", "", err
	}
	dump = filepath.Join(stage, finalName)
	err = os.RemoveAll(stage)
	if err == nil {
		err = os.MkdirAll(dump, 0o700)
	}
	if err != nil {
		return "", "", fmt.Errorf("image store: %w", err)
	}
	s.mu.Lock()
	s.stages[container] = stage
	s.mu.Unlock()
	return dump, pages, s.StageRound(container, rounds-1)
}

// StageRound lets a staged final dump be built on round k.
func (s *Set) StageRound(container string, k int) error {
	stage := s.stage(container)
	if stage == "" || k < 0 {
		return nil
	}
	round, err := s.RoundDir(container, k)
	if err != nil {
		return err
	}
	return link(round, filepath.Join(stage, RoundName(k)))
}

// stage is where the final dump of a container is made, "" for the volume.
func (s *Set) stage(container string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stages[container]
}

// link makes a link to what lies on the volume, in the place of what is there. It is
// relative, since CRIU follows it when it is in the container's root already.
func link(to, name string) error {
	rel, err := filepath.Rel(filepath.Dir(name), to)
	if err != nil {
		return fmt.Errorf("image store: %w", err)
	}
	temp := name + tempSuffix
	if err = os.Remove(temp); err == nil || errors.Is(err, fs.ErrNotExist) {
		err = os.Symlink(rel, temp)
	}
	if err == nil {
		err = os.Rename(temp, name)
	}
	if err != nil {
		return fmt.Errorf("image store: %w", err)
	}
	return nil
}

// ShareDescriptors brings the one file of a final dump to the volume that is there before
// the pod is frozen, and that [Set.PrepareRestore] needs.
func (s *Set) ShareDescriptors(ctx context.Context, container string) error {
	stage := s.stage(container)
	if stage == "" {
		return nil
	}
	f, err := os.Open(filepath.Join(stage, finalName, descriptorsName))
	if err != nil {
		return fmt.Errorf("image store: %w", err)
	}
	defer f.Close()
	d, err := s.openDir(container, finalName)
	if err != nil {
		return err
	}
	defer d.close()
	if err := ctx.Err(); err != nil {
		return err
	}
	return d.write(descriptorsName, func(w io.Writer) error {
		_, err := io.Copy(w, io.LimitReader(f, maxDescriptors))
		return err
	})
}

// gather brings a final dump that was made on the node to the volume, apart from what of it
// is there.
func gather(ctx context.Context, d *dir, stage string) error {
	from := filepath.Join(stage, finalName)
	entries, err := os.ReadDir(from)
	if err != nil {
		return fmt.Errorf("image store: %w", err)
	}
	var small []string
	for _, e := range entries {
		name := e.Name()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case name == parentName:
			if err := d.relink(filepath.Join(from, name)); err != nil {
				return err
			}
		case !e.Type().IsRegular(): // leads to the volume
		case strings.HasPrefix(name, pagesPrefix): // there were no more links
			if err := d.write(name, func(w io.Writer) error { return copyFrom(w, filepath.Join(from, name)) }); err != nil {
				return err
			}
		default:
			small = append(small, name)
		}
	}
	return d.write(packName, func(w io.Writer) error { return pack(w, from, small) })
}

// relink makes the link to a dump's parent like another one.
func (d *dir) relink(like string) error {
	to, err := os.Readlink(like)
	if err != nil {
		return fmt.Errorf("image store: %w", err)
	}
	return d.replace(parentName, func() error { return unix.Symlinkat(to, int(d.f.Fd()), parentName) })
}

// write makes a file, in the place of one that is there.
func (d *dir) write(name string, fill func(io.Writer) error) error {
	var f *os.File
	err := d.replace(name, func() (err error) {
		f, err = createAt(d, name)
		return err
	})
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, pieceSize)
	err = fill(w)
	if err == nil {
		err = w.Flush()
	}
	return wrap(d.join(name), errors.Join(err, f.Close()))
}

// replace makes a name, in the place of one that is there. Mostly none is, and to look
// would cost a round trip to the server.
func (d *dir) replace(name string, create func() error) error {
	err := create()
	if errors.Is(err, unix.EEXIST) {
		if err = unix.Unlinkat(int(d.f.Fd()), name, 0); err == nil {
			err = create()
		}
	}
	return wrap(d.join(name), err)
}

func copyFrom(w io.Writer, name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, f)
	return err
}

// pack writes files into an archive that depends on nothing but their names and contents.
func pack(w io.Writer, dir string, names []string) error {
	t := tar.NewWriter(w)
	left := int64(maxPack)
	for _, name := range names {
		file := filepath.Join(dir, name)
		fi, err := os.Stat(file)
		if err != nil {
			return err
		}
		if left -= fi.Size(); left < 0 {
			return fmt.Errorf("the final dump has more than %d bytes besides the memory", maxPack)
		}
		if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: fi.Size(), Mode: 0o600}); err != nil {
			return err
		}
		if err := copyFrom(t, file); err != nil {
			return err
		}
	}
	return t.Close()
}

// unpack is the inverse of pack. Others may have made the archive: it has plain files with
// names that a set may have, each once, and not more of them than a set has.
func unpack(r io.Reader, dir string) error {
	seen := map[string]bool{}
	left := int64(maxPack)
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("%s: %w", packName, err)
		case h.Typeflag != tar.TypeReg || !validFileName(h.Name) || seen[h.Name] || len(seen) == maxFiles:
			return tampered(packName, runtime.RefusedUnlisted, "%q does not belong into it", h.Name)
		case h.Size > left:
			return tampered(packName, runtime.RefusedSize, "it has more than %d bytes", maxPack)
		}
		seen[h.Name] = true
		left -= h.Size
		if err := unpackFile(t, filepath.Join(dir, h.Name)); err != nil {
			return fmt.Errorf("image store: %w", err)
		}
	}
}

func unpackFile(r io.Reader, name string) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}

// LayOut makes dir, a directory of the node, one from which the container's final dump can be
// restored, of the manifest that Verify has returned: what was packed is unpacked there,
// and links lead to everything else. One that was merged needs none. A directory that is
// there stays the same, for a prepared restore has it open.
func (s *Set) LayOut(ctx context.Context, m *Manifest, container, dir string) error {
	final, err := s.FinalDir(container)
	if err != nil {
		return err
	}
	if _, err := s.Assembled(container); err == nil {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("image store: %w", err)
	}
	for _, d := range m.Dirs {
		if d.Container != container || d.Name != finalName {
			continue
		}
		for _, f := range d.Files {
			if f.Name != packName {
				if err := link(filepath.Join(final, f.Name), filepath.Join(dir, f.Name)); err != nil {
					return err
				}
				continue
			}
			if err := s.layOutPack(ctx, d, f, dir); err != nil {
				return err
			}
		}
		if d.Parent == "" {
			return nil
		}
		return link(filepath.Join(final, d.Parent), filepath.Join(dir, parentName))
	}
	return fmt.Errorf("%w: %s has no final dump", ErrManifest, container)
}

// layOutPack unpacks the archive beside the directory, and moves what was in it there when
// it has proved to be the one that was verified: CRIU reads whatever it finds.
func (s *Set) layOutPack(ctx context.Context, d Dir, want File, dir string) error {
	beside, err := os.MkdirTemp(filepath.Dir(dir), "unpacked-")
	if err != nil {
		return fmt.Errorf("image store: %w", err)
	}
	defer os.RemoveAll(beside)
	have, err := s.Read(ctx, d.Container, d.Name, want.Name, func(r io.Reader, _ int64) error { return unpack(r, beside) })
	if err != nil {
		return err
	}
	if err := (Dir{Container: d.Container, Name: d.Name, Files: []File{want}}).Same([]File{have}); err != nil {
		return err
	}
	entries, err := os.ReadDir(beside)
	for _, e := range entries {
		if err == nil {
			err = os.Rename(filepath.Join(beside, e.Name()), filepath.Join(dir, e.Name()))
		}
	}
	if err != nil {
		return fmt.Errorf("image store: %w", err)
	}
	return nil
}
