// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package images

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"
)

// roundKey is a round of a container, or the files that were packed in it.
type roundKey struct {
	container string
	k         int
	files     bool
}

func (key roundKey) name() string {
	if key.files {
		return FilesName(key.k)
	}
	return RoundName(key.k)
}

// keyOf is the round that a directory is of. What is made while the pod stands still is
// of none.
func keyOf(container, name string) (roundKey, bool) {
	if k, ok := roundNumber(name); ok {
		return roundKey{container, k, false}, true
	}
	k, last, ok := FilesRound(name)
	return roundKey{container, k, true}, ok && !last
}

// roundWork is a round that is being read or has been; h is valid once done is
// closed and err is nil.
type roundWork struct {
	done chan struct{}
	h    *hashed
	err  error
}

// HashRound reads a finished round, makes it durable and remembers its hashes,
// so that Seal need not read it. To be called outside the freeze; repeating it,
// also at once or after a restart of the agent, costs little.
func (s *Set) HashRound(ctx context.Context, container string, k int) error {
	if err := checkRound(container, k); err != nil {
		return err
	}
	_, err := s.round(ctx, roundKey{container, k, false}, true, nil)
	return err
}

// HashFiles is HashRound for the files that were packed in a round.
func (s *Set) HashFiles(ctx context.Context, container string, k int) error {
	if err := checkFilesRound(container, k); err != nil {
		return err
	}
	_, err := s.round(ctx, roundKey{container, k, true}, true, nil)
	return err
}

// VerifyFiles is VerifyRound for the files that were packed in a round. Some must have
// been: a round without any has no directory for them. The names are returned.
func (s *Set) VerifyFiles(ctx context.Context, container string, k int) (Dir, error) {
	if err := checkFilesRound(container, k); err != nil {
		return Dir{}, err
	}
	var h *hashed
	err := s.store.untilThere(ctx, func() (err error) {
		h, err = s.round(ctx, roundKey{container, k, true}, false, nil)
		return err
	})
	if err != nil {
		return Dir{}, err
	}
	return h.Dir, nil
}

// VerifyRound reads a finished round on the target, and remembers its hashes for
// Verify; nothing is compared yet. What it has read it merges with the rounds before,
// see [Set.Assembled], or else it has warmed the page cache. The round must have been
// reported finished: for up to Options.Settle it is waited for.
func (s *Set) VerifyRound(ctx context.Context, container string, k int) error {
	if err := checkRound(container, k); err != nil {
		return err
	}
	return s.store.untilThere(ctx, func() error {
		_, err := s.round(ctx, roundKey{container, k, false}, false, s.merging(container))
		return err
	})
}

// round returns what is known about a round, reading it if need be; concurrent
// calls for one round share the work. A round that is read is merged into what is given.
func (s *Set) round(ctx context.Context, key roundKey, sync bool, into *merge) (*hashed, error) {
	for {
		s.mu.Lock()
		w := s.rounds[key]
		if w == nil {
			w = &roundWork{done: make(chan struct{})}
			s.rounds[key] = w
			s.mu.Unlock()
			return s.readRound(ctx, key, w, sync, into)
		}
		s.mu.Unlock()
		select {
		case <-w.done:
			if w.err == nil {
				return w.h, nil
			}
			// That caller may only have been cancelled: try it ourselves.
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (s *Set) readRound(ctx context.Context, key roundKey, w *roundWork, sync bool, into *merge) (*hashed, error) {
	defer close(w.done)
	w.h, w.err = func() (*hashed, error) {
		d, err := s.openDir(key.container, key.name())
		if err != nil {
			return nil, err
		}
		defer d.close()
		if h := s.loadState(key); h != nil && unchanged(d, h) {
			return h, nil
		}
		in := into.round(key.k)
		h, err := hashDir(ctx, d, key.container, key.name(), reading{sync: sync, into: in, known: s.endFollowing(ctx, key.container, key.name())})
		if err == nil && h.Dir.Parent != "" && h.Dir.Parent != Parent(key.k) {
			into.giveUp(fmt.Errorf("round %d builds on %q", key.k, h.Dir.Parent))
		}
		in.done(key.k, err)
		return h, err
	}()
	s.mu.Lock()
	defer s.mu.Unlock()
	// The round may have been removed meanwhile: then nothing is remembered.
	if s.rounds[key] == w {
		if w.err == nil {
			w.err = s.saveState(key, w.h)
		}
		if w.err != nil {
			delete(s.rounds, key)
		}
	}
	return w.h, w.err
}

// known says whether a round was seen finished, now or before a restart.
func (s *Set) known(key roundKey) bool {
	s.mu.Lock()
	w := s.rounds[key]
	s.mu.Unlock()
	return w != nil || s.loadState(key) != nil
}

// openDir opens a directory of the set anew from the root.
func (s *Set) openDir(names ...string) (*dir, error) {
	root, err := s.store.open()
	if err != nil {
		return nil, err
	}
	d := root
	// Each element is opened by itself, because it is the opening of a directory
	// that makes an NFS client look at the server again.
	for _, n := range append([]string{s.uid}, names...) {
		next, err := d.openDir(n)
		d.close()
		if err != nil {
			return nil, err
		}
		d = next
	}
	return d, nil
}

// unchanged says whether a directory still holds exactly the files that were
// read, untouched since. Each file costs a round trip to the server: they are
// looked at side by side.
func unchanged(d *dir, h *hashed) bool {
	entries, err := d.list()
	if err != nil {
		return false
	}
	var g errgroup.Group
	g.SetLimit(workers())
	n, sameParent := 0, h.Dir.Parent == ""
	for _, e := range entries {
		if e.Name() == parentName {
			link, err := d.readLink()
			sameParent = err == nil && link == h.Dir.Parent
			continue
		}
		n++
		g.Go(func() error {
			f, id, err := d.openFile(e.Name())
			if err != nil {
				return err
			}
			_ = f.Close()
			if want, ok := h.Identities[e.Name()]; !ok || id != want {
				return ErrTampered
			}
			return nil
		})
	}
	return g.Wait() == nil && sameParent && n == len(h.Identities)
}

func (s *Set) statePath(key roundKey) string {
	return filepath.Join(s.store.stateDir, s.uid, key.container+"."+key.name()+".json")
}

// loadState returns what was remembered before a restart, nil when there is
// nothing of use: the round is then read again.
func (s *Set) loadState(key roundKey) *hashed {
	if s.store.stateDir == "" {
		return nil
	}
	b, err := os.ReadFile(s.statePath(key))
	if err != nil {
		return nil
	}
	h := &hashed{}
	if json.Unmarshal(b, h) != nil || h.Dir.Container != key.container || h.Dir.Name != key.name() {
		return nil
	}
	return h
}

func (s *Set) saveState(key roundKey, h *hashed) error {
	if s.store.stateDir == "" {
		return nil
	}
	path := s.statePath(key)
	b, err := json.Marshal(h)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(path), 0o700)
	}
	if err == nil {
		err = os.WriteFile(path+".tmp", b, 0o600)
	}
	if err == nil {
		err = os.Rename(path+".tmp", path)
	}
	if err != nil {
		return fmt.Errorf("remember round: %w", err)
	}
	return nil
}

func (s *Set) dropState(key roundKey) error {
	if s.store.stateDir == "" {
		return nil
	}
	if err := os.Remove(s.statePath(key)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget round: %w", err)
	}
	return nil
}
