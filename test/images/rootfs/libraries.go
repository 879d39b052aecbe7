// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package rootfs

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
)

// CheckLibraries returns an error that names every shared library or program
// interpreter that a file of the tree needs and the tree does not hold. An
// image that fails it would only show so when the program starts.
func (t *Tree) CheckLibraries() error {
	have := make(map[string]bool)
	for name := range t.entries {
		if strings.HasPrefix(name, "usr/lib") {
			have[path.Base(name)] = true
		}
	}
	var missing []error
	for _, name := range slices.Sorted(maps.Keys(t.entries)) {
		e := t.entries[name]
		if e.header.Typeflag != tar.TypeReg || !bytes.HasPrefix(e.data, []byte(elf.ELFMAG)) {
			continue
		}
		needs, err := needs(e.data)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		for _, library := range needs {
			if !have[library] {
				missing = append(missing, fmt.Errorf("/%s needs %s, which no package of the image brings", name, library))
			}
		}
	}
	return errors.Join(missing...)
}

// needs lists the libraries and the interpreter of a program or library, by
// the last part of their names.
func needs(data []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	// Relocatable objects and static programs have no dynamic section: that
	// is an empty list, not an error.
	libraries, err := f.ImportedLibraries()
	if err != nil {
		return nil, err
	}
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		raw := make([]byte, p.Filesz)
		if _, err := p.ReadAt(raw, 0); err != nil {
			return nil, err
		}
		libraries = append(libraries, path.Base(strings.TrimRight(string(raw), "\x00")))
	}
	return libraries, nil
}
