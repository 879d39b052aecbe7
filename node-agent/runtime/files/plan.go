// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package files

import (
	"path"
	"slices"

	"golang.org/x/sys/unix"
)

// todo is what has to be packed of an entry.
type todo int

const (
	nothing todo = iota
	// difference: of a file that is there already, what has changed.
	difference
	// whole: all of it, in place of whatever is there.
	whole
)

// plan is what to pack of a tree.
type plan struct {
	entries []entry
	todo    []todo
	// removed are the names in a directory that are not there any more, by directory.
	removed map[string][]string
	// cleared are the directories that have come to hide what is below them: what was
	// packed there before counts no more.
	cleared map[string]bool
}

// makePlan compares a tree with what has been copied of it.
func makePlan(entries []entry, since *copied) *plan {
	p := &plan{entries: entries, todo: make([]todo, len(entries)), removed: map[string][]string{}, cleared: map[string]bool{}}
	at := make(map[string]int, len(entries))
	for i := range entries {
		at[entries[i].name] = i
		p.todo[i] = p.compare(&entries[i], since.records[entries[i].name])
	}
	p.wholeGroups()
	for name := range since.records {
		parent := path.Dir(name)
		i, there := at[parent]
		if _, kept := at[name]; kept || !there || !entries[i].isDir() || p.cleared[parent] {
			continue // what is above it says that it is gone
		}
		p.removed[parent] = append(p.removed[parent], path.Base(name))
	}
	for parent := range p.removed {
		slices.Sort(p.removed[parent])
	}
	// What is done in a directory changes its times on the target.
	for i := len(entries) - 1; i > 0; i-- {
		if p.todo[i] != nothing {
			p.touch(at[path.Dir(entries[i].name)])
		}
	}
	for parent := range p.removed {
		p.touch(at[parent])
	}
	return p
}

func (p *plan) touch(i int) { p.todo[i] = max(p.todo[i], difference) }

func (p *plan) compare(e *entry, have *record) todo {
	if p.cleared[path.Dir(e.name)] && e.name != "." {
		have = nil
		if e.isDir() {
			p.cleared[e.name] = true
		}
	}
	same := have.sameFile(&e.st)
	if e.isDir() && e.opaque && (!same || !have.Opaque) {
		p.cleared[e.name] = true
		return whole
	}
	switch {
	case !same:
		return whole
	case have.same(&e.st) && have.Opaque == e.opaque && !have.Racy && !have.Busy:
		return nothing
	case e.isDir():
		return difference
	case e.isRegular() && have.known:
		return difference
	}
	return whole
}

// wholeGroups: of a file with several names all are packed as a whole when one is, the
// first with its content and the others as links to it.
func (p *plan) wholeGroups() {
	groups := map[uint64]bool{}
	for i := range p.entries {
		if e := &p.entries[i]; linked(&e.st) && p.todo[i] == whole {
			groups[e.st.Ino] = true
		}
	}
	for i := range p.entries {
		if e := &p.entries[i]; linked(&e.st) && groups[e.st.Ino] {
			p.todo[i] = whole
		}
	}
}

// linked says whether a file may have several names. An overlay's whiteouts are names of
// one file, and have nothing to do with each other.
func linked(st *unix.Stat_t) bool {
	kind := st.Mode & unix.S_IFMT
	return kind != unix.S_IFDIR && kind != unix.S_IFCHR && st.Nlink > 1
}
