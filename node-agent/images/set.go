// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package images

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"godwit.dev/godwit/node-agent/runtime"
)

// Set is the image set of one migration. Its methods may be called at once from
// several goroutines.
type Set struct {
	store *Store
	uid   string

	mu     sync.Mutex
	rounds map[roundKey]*roundWork
	// merges of the containers; see [merge].
	merges map[string]*merge
	// follows are the dumps that are hashed while they are written, by their path.
	follows map[string]*following
	// stages are the directories in which final dumps are made, by container.
	stages map[string]string
}

// UID is the migration's UID.
func (s *Set) UID() string { return s.uid }

// Dir is the set's directory.
func (s *Set) Dir() string { return filepath.Join(s.store.root, s.uid) }

// RoundDir is the directory of round k of a container. It may not exist.
func (s *Set) RoundDir(container string, k int) (string, error) {
	if err := checkRound(container, k); err != nil {
		return "", err
	}
	return filepath.Join(s.Dir(), container, RoundName(k)), nil
}

// FinalDir is the directory of the final dump of a container. It may not exist.
func (s *Set) FinalDir(container string) (string, error) {
	if err := checkRound(container, 0); err != nil {
		return "", err
	}
	return filepath.Join(s.Dir(), container, finalName), nil
}

// PrepareRound makes an empty directory with mode 0700 for round k and returns
// its path. What an interrupted try left there is removed (CRIU keeps a wrong
// parent link it finds); a round that HashRound has seen finished is not:
// ErrFinished.
func (s *Set) PrepareRound(ctx context.Context, container string, k int) (string, error) {
	if err := checkRound(container, k); err != nil {
		return "", err
	}
	if s.known(roundKey{container, k, false}) {
		return "", &FileError{Name: filepath.Join(s.uid, container, RoundName(k)), Err: ErrFinished}
	}
	return s.prepare(ctx, container, RoundName(k))
}

// PrepareFinal makes an empty directory for the final dump, which is all made there unless
// StageFinal is called in its place.
func (s *Set) PrepareFinal(ctx context.Context, container string) (string, error) {
	if err := checkRound(container, 0); err != nil {
		return "", err
	}
	s.mu.Lock()
	delete(s.stages, container)
	s.mu.Unlock()
	return s.prepare(ctx, container, finalName)
}

// PrepareFiles returns the path for the files that are packed in round k, of which
// nothing is left there from a try that was interrupted. The directory is made by who
// packs any.
func (s *Set) PrepareFiles(ctx context.Context, container string, k int) (string, error) {
	if err := checkFilesRound(container, k); err != nil {
		return "", err
	}
	key := roundKey{container, k, true}
	if s.known(key) {
		return "", &FileError{Name: filepath.Join(s.uid, container, key.name()), Err: ErrFinished}
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	return filepath.Join(s.Dir(), container, key.name()), s.removeAll(filepath.Join(container, key.name()))
}

// PrepareLastFiles makes an empty directory for what is packed while the pod stands still,
// and has no time to make one.
func (s *Set) PrepareLastFiles(ctx context.Context, container string) (string, error) {
	if err := checkFilesRound(container, 0); err != nil {
		return "", err
	}
	return s.prepare(ctx, container, filesName)
}

func (s *Set) prepare(ctx context.Context, container, name string) (string, error) {
	s.endFollowing(ctx, container, name)
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if err := s.removeAll(filepath.Join(container, name)); err != nil {
		return "", err
	}
	root, err := s.store.open()
	if err != nil {
		return "", err
	}
	defer root.close()
	d := root
	for _, n := range []string{s.uid, container, name} {
		if d, err = d.mkdir(n); err != nil {
			return "", err
		}
		defer d.close()
	}
	return filepath.Join(s.Dir(), container, name), nil
}

// RemoveRound removes round k and what is remembered about it, for a round that
// broke or a chain that starts again. A round that is not there is not an error.
func (s *Set) RemoveRound(ctx context.Context, container string, k int) error {
	if err := checkRound(container, k); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	key := roundKey{container, k, false}
	s.endFollowing(ctx, container, key.name())
	s.mu.Lock()
	delete(s.rounds, key)
	err := s.dropState(key)
	s.mu.Unlock()
	if err != nil {
		return err
	}
	return s.removeAll(filepath.Join(container, RoundName(k)))
}

// Remove removes the set and everything that is remembered about it. A set that
// is not there is not an error. The manifest goes first, so that a set that is
// half removed can never be taken for a whole one.
func (s *Set) Remove(ctx context.Context) error {
	s.endAllFollowing(ctx)
	for _, name := range []string{manifestName, "."} {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := s.removeAll(name); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.rounds)
	clear(s.merges)
	clear(s.stages)
	return s.store.forget(s.uid)
}

// removeAll removes a path below the set without following links. os.Root keeps
// it inside the volume whatever lies there.
func (s *Set) removeAll(name string) error {
	rel := filepath.Join(s.uid, name)
	if err := s.store.available(); err != nil {
		return fmt.Errorf("image store: %w", err)
	}
	root, err := os.OpenRoot(s.store.root)
	if err != nil {
		return fmt.Errorf("image store: %w", err)
	}
	defer root.Close()
	// A link in place of the set's or the container's directory would lead to
	// another migration's set: links may not be walked through.
	for p := filepath.Dir(rel); p != "."; p = filepath.Dir(p) {
		fi, err := root.Lstat(p)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return wrap(p, err)
		case !fi.IsDir():
			return tampered(p, runtime.RefusedType, "it is not a directory")
		}
	}
	if err := root.RemoveAll(rel); err != nil {
		return wrap(rel, err)
	}
	return nil
}
