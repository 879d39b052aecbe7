// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package images

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
)

const (
	// ManifestVersion is the version of the manifest's format.
	ManifestVersion = 4
	// MaxManifest is the largest manifest in bytes that is read or written.
	MaxManifest = 4 << 20

	// sumSize is the size of a hash in bytes.
	sumSize = sha256.Size

	maxContainers = 64
	maxDirs       = 2*maxRound + 4
	maxFiles      = 16384
)

// Manifest lists everything an image set consists of.
type Manifest struct {
	// Version is ManifestVersion.
	Version int `json:"version"`
	// MigrationUID binds the set to one migration.
	MigrationUID string `json:"migrationUID"`
	// Dirs in ascending order of their names.
	Dirs []Dir `json:"dirs"`
}

// Dir is one directory of the set: a round, a final dump or packed files.
type Dir struct {
	// Container is the name of the container, or [Pod], Name that of the directory in
	// it: "round-000", "final", "files-000" or "files".
	Container string `json:"container"`
	Name      string `json:"name"`
	// Parent is the value of the relative link "parent", "" when there is none.
	Parent string `json:"parent,omitempty"`
	// Files in ascending order of their names.
	Files []File `json:"files"`
}

// File is one regular file.
type File struct {
	// Name is a plain name, without any slash.
	Name string `json:"name"`
	// Size in bytes.
	Size int64 `json:"size"`
	// Hash of the content, in lower case hex: the SHA-256 of the SHA-256s of its pieces
	// of 1 MiB, which are hashed side by side.
	Hash string `json:"hash"`
}

// path is the directory's path relative to the set.
func (d Dir) path() string { return d.Container + "/" + d.Name }

// Bytes is the size of all files of the set.
func (m *Manifest) Bytes() int64 {
	var n int64
	for _, d := range m.Dirs {
		for _, f := range d.Files {
			n += f.Size
		}
	}
	return n
}

// Digest is the SHA-256 of a manifest's bytes in lower case hex.
func Digest(manifest []byte) string {
	sum := sha256.Sum256(manifest)
	return hex.EncodeToString(sum[:])
}

func encodeManifest(m *Manifest) ([]byte, error) {
	if err := m.check(); err != nil {
		return nil, err
	}
	b, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrManifest, err)
	}
	if len(b) >= MaxManifest {
		return nil, fmt.Errorf("%w: %d bytes are too many", ErrManifest, len(b))
	}
	return append(b, '\n'), nil
}

// decodeManifest reads a manifest that may have been written by anybody. What
// it returns names nothing outside the set.
func decodeManifest(b []byte) (*Manifest, error) {
	if len(b) > MaxManifest {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrManifest, MaxManifest)
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	m := &Manifest{}
	if err := dec.Decode(m); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrManifest, err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, fmt.Errorf("%w: something follows it", ErrManifest)
	}
	if err := m.check(); err != nil {
		return nil, err
	}
	return m, nil
}

// check says whether the manifest describes a set that Seal could have made.
func (m *Manifest) check() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrManifest, fmt.Sprintf(format, args...))
	}
	if m.Version != ManifestVersion {
		return bad("version %d, this agent knows %d", m.Version, ManifestVersion)
	}
	if !validLabel(m.MigrationUID) {
		return bad("migration UID %q", m.MigrationUID)
	}
	dirs, containers := map[string]bool{}, map[string]int{}
	for i, d := range m.Dirs {
		if !validPlace(d.Container, d.Name) {
			return bad("directory %q of container %q", d.Name, d.Container)
		}
		if i > 0 && m.Dirs[i-1].path() >= d.path() {
			return bad("directory %q is not in order", d.path())
		}
		dirs[d.path()] = true
		if containers[d.Container]++; containers[d.Container] > maxDirs || len(containers) > maxContainers {
			return bad("too many directories")
		}
		if err := checkFiles(d); err != nil {
			return err
		}
	}
	delete(containers, Pod) // which has files only
	for c := range containers {
		if !dirs[c+"/"+finalName] {
			return bad("container %q has no final dump", c)
		}
	}
	if len(containers) == 0 {
		return bad("no containers")
	}
	for _, d := range m.Dirs {
		if err := checkParent(d, dirs); err != nil {
			return err
		}
	}
	return nil
}

// validPlace says whether there may be such a directory.
func validPlace(container, name string) bool {
	if container == Pod {
		return isFiles(name)
	}
	return validLabel(container) && isDirName(name)
}

func checkFiles(d Dir) error {
	if len(d.Files) > maxFiles {
		return fmt.Errorf("%w: %q has too many files", ErrManifest, d.path())
	}
	for i, f := range d.Files {
		sum, err := hex.DecodeString(f.Hash)
		switch {
		case !validFileName(f.Name):
			return fmt.Errorf("%w: %q is no plain file name", ErrManifest, f.Name)
		case i > 0 && d.Files[i-1].Name >= f.Name:
			return fmt.Errorf("%w: file %q is not in order", ErrManifest, f.Name)
		case f.Size < 0:
			return fmt.Errorf("%w: size of %q", ErrManifest, f.Name)
		case err != nil || len(sum) != sumSize || hex.EncodeToString(sum) != f.Hash:
			return fmt.Errorf("%w: hash of %q", ErrManifest, f.Name)
		}
	}
	return nil
}

// checkParent: a dump builds on an earlier round of the same container, packed
// files build on nothing.
func checkParent(d Dir, dirs map[string]bool) error {
	if d.Parent == "" {
		return nil
	}
	p, ok := parentRound(d.Parent)
	if k, isRound := roundNumber(d.Name); !ok || isFiles(d.Name) || (isRound && p >= k) {
		return fmt.Errorf("%w: %q cannot build on %q", ErrManifest, d.path(), d.Parent)
	}
	if !dirs[d.Container+"/"+RoundName(p)] {
		return fmt.Errorf("%w: %q builds on %q, which is not in the set", ErrManifest, d.path(), d.Parent)
	}
	return nil
}
