// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package images

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"godwit.dev/godwit/node-agent/images/pagemap"
)

const (
	// Names below a container's directory on the node.
	mergedName  = "merged"
	restoreName = "restore"

	// descriptorsName is runc's file with the first descriptors of the process, the only
	// one that it reads itself (libcontainer/criu_linux.go).
	descriptorsName = "descriptors.json"
	maxDescriptors  = 1 << 20
	// extraName is a directory beside it, of the memory that has no place there.
	extraName = "extra"
	// maxExtra is how many bytes of it have no place in the merged memory before all of it
	// is written anew, while the pod runs. They may have to be moved in the freeze.
	maxExtra = 64 << 20
)

// ErrNotMerged: the rounds have not become one dump on this node. Restore from the final
// dump on the volume, which takes longer.
var ErrNotMerged = errors.New("the rounds are not merged on this node")

// merge is what the dumps of one container come to on the node itself: one dump,
// which has all the memory. A restore from it need not look up each page through all the
// rounds that it may be in.
type merge struct {
	store *Store
	// dir is the container's directory.
	dir string

	mu sync.Mutex
	// last round that was taken in, -1 for none.
	last int
	// tasks are the lists of the merged memory by the number of the process.
	tasks map[uint64]pagemap.Memory
	// made is what the final dump has become, nil until it was taken in.
	made *Assembly
	// err is why nothing is merged any more.
	err error
}

// Assembly is what a container is restored from.
type Assembly struct {
	// Whole processes have all their memory in one dump. Chained ones have ExtraBytes, of
	// pages that have been made since the first rounds, in the final dump, and everything
	// else in the one that it builds on.
	Whole, Chained int
	ExtraBytes     int64
}

// merging returns a container's merge; nil when the store has no place for it.
func (s *Set) merging(container string) *merge {
	if s.store.localDir == "" {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.merges[container]
	if m == nil {
		m = &merge{store: s.store, dir: filepath.Join(s.store.localDir, s.uid, container), last: -1}
		s.merges[container] = m
	}
	return m
}

// giveUp: the volume has all that is needed.
func (m *merge) giveUp(cause error) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail(cause)
}

func (m *merge) fail(cause error) {
	if m.err == nil && cause != nil {
		m.err = fmt.Errorf("%w: %w", ErrNotMerged, cause)
	}
}

// round is what takes round k in while it is read, nil when nothing does.
func (m *merge) round(k int) *intake {
	if m == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if k != m.last+1 {
		m.fail(fmt.Errorf("round %d was not read by this agent", m.last+1))
	}
	if k == 0 {
		m.fail(os.RemoveAll(m.dir)) // of an agent before this one
	}
	return m.take(RoundName(k))
}

// final is what takes the final dump in while it is verified.
func (m *merge) final(want Dir) *intake {
	if m == nil || want.Name != finalName {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.made != nil {
		return nil
	}
	if m.last < 0 || want.Parent != Parent(m.last+1) {
		m.fail(fmt.Errorf("the final dump builds on %q, and round %d is the last one here", want.Parent, m.last))
	}
	return m.take(restoreName)
}

func (m *merge) take(name string) *intake {
	dir := filepath.Join(m.dir, name)
	if m.err == nil {
		m.fail(empty(dir))
	}
	if m.err != nil {
		return nil
	}
	return &intake{merge: m, dir: dir, final: name == restoreName}
}

// empty makes sure that a directory is there and has nothing in it. One that is there
// stays the same: a prepared restore has it open.
func empty(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return err
}

// PrepareRestore returns the directory that a restore of the container will probably be
// made from, with the one file in it that runc reads before the set is complete. local is
// that of RestoreDir.
func (s *Set) PrepareRestore(container, local string) (string, error) {
	b, err := s.readDescriptors(container)
	if err != nil {
		return "", err
	}
	dir := s.merging(container).prepare()
	if dir == "" {
		dir = local
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return "", fmt.Errorf("image store: %w", err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, descriptorsName), b, 0o600); err != nil {
		return "", fmt.Errorf("image store: %w", err)
	}
	return dir, nil
}

// prepare returns the directory that will have the final dump, "" when it will not be
// merged.
func (m *merge) prepare() string {
	if !m.going() {
		return ""
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if in := m.take(restoreName); in != nil {
		return in.dir
	}
	return ""
}

// holds says whether rounds have been merged, and nothing has gone wrong.
func (m *merge) holds() bool {
	if m == nil {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err == nil && m.last >= 0
}

// going says whether rounds have been merged, and the final dump has not.
func (m *merge) going() bool {
	if !m.holds() {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.made == nil
}

func (s *Set) readDescriptors(container string) ([]byte, error) {
	d, err := s.openDir(container, finalName)
	if err != nil {
		return nil, err
	}
	defer d.close()
	f, id, err := d.openFile(descriptorsName)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, min(id.Size, maxDescriptors))
	if err := readAt(f, b, 0); err != nil {
		return nil, wrap(d.join(descriptorsName), err)
	}
	return b, nil
}

// RestoreDir is the directory to restore the container from, once Verify and LayOut have
// returned. What was merged has one of its own, which nobody can change who can write the
// volume. Else it is local, where LayOut has made links to the volume; the error of
// Assembled says why.
func (s *Set) RestoreDir(container, local string) (string, error) {
	if err := checkRound(container, 0); err != nil {
		return "", err
	}
	if _, err := s.Assembled(container); err == nil {
		return filepath.Join(s.store.localDir, s.uid, container, restoreName), nil
	}
	return local, nil
}

// Assembled says what Verify has made of the rounds and the final dump of a container
// while it read them. ErrNotMerged when it has made nothing.
func (s *Set) Assembled(container string) (Assembly, error) {
	m := s.merging(container)
	if m == nil {
		return Assembly{}, ErrNotMerged
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.err != nil:
		return Assembly{}, m.err
	case m.made == nil:
		return Assembly{}, ErrNotMerged
	}
	return *m.made, nil
}

// StopMerging leaves the rounds of a container on the volume, for a reason, and gives back
// the room that the merged ones have taken.
func (s *Set) StopMerging(container string, reason error) error {
	m := s.merging(container)
	if m == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil || m.made != nil {
		return nil
	}
	m.fail(reason)
	return os.RemoveAll(m.dir)
}

// RemoveLocal removes what the node has of the set itself. Nothing may be
// restored from it any more.
func (s *Set) RemoveLocal() error {
	if s.store.localDir == "" {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.merges)
	if err := os.RemoveAll(filepath.Join(s.store.localDir, s.uid)); err != nil {
		return fmt.Errorf("image store: %w", err)
	}
	return nil
}
