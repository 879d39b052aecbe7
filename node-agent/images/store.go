// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package images

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Options of a Store.
type Options struct {
	// StateDir is a directory of the node itself (not on the volume) where what
	// was learned about finished rounds outlives the agent. Empty keeps it in
	// memory only, and a restarted agent reads rounds again.
	StateDir string
	// LocalDir is a directory of the node itself where the rounds of a pod that comes to it
	// are merged; see [Set.Assembled]. It should be in memory: the pod's own goes there
	// whole and is read again soon. The path is the same on the node and for this process,
	// and [CheckLocalDir] has passed it. Empty: restores read the volume.
	LocalDir string
	// Settle is the longest time to wait for a name that must be there to show
	// up on this node; 0 means DefaultSettle.
	Settle time.Duration
	// Available says why the volume is not there yet; nil when it is. Until then
	// nothing is read or written below the root, which lies on the node's own disk
	// as long as the volume is not mounted. nil: it always is.
	Available func() error
}

// DefaultSettle is longer than the half minute (acdirmin) for which an NFS
// client may by default believe that a name does not exist.
const DefaultSettle = 40 * time.Second

// Store is the image store on the shared volume.
type Store struct {
	root     string
	stateDir string
	localDir string
	// maxExtra is [maxExtra], in bytes.
	maxExtra int64
	settle   time.Duration
	// available is Options.Available.
	available func() error

	mu   sync.Mutex
	sets map[string]*Set
}

// Open opens the store whose volume is, or will be, mounted at root; Check says
// whether it can be used.
func Open(root string, o Options) (*Store, error) {
	if !filepath.IsAbs(root) {
		return nil, fmt.Errorf("%w: root %q is not absolute", ErrInvalidName, root)
	}
	if o.StateDir != "" {
		if err := os.MkdirAll(o.StateDir, 0o700); err != nil {
			return nil, fmt.Errorf("image store: %w", err)
		}
	}
	if o.LocalDir != "" {
		if err := os.MkdirAll(o.LocalDir, 0o700); err != nil {
			return nil, fmt.Errorf("image store: %w", err)
		}
	}
	if o.Settle == 0 {
		o.Settle = DefaultSettle
	}
	if o.Available == nil {
		o.Available = func() error { return nil }
	}
	s := &Store{root: filepath.Clean(root), stateDir: o.StateDir, localDir: o.LocalDir, maxExtra: maxExtra, settle: o.Settle, available: o.Available, sets: map[string]*Set{}}
	return s, nil
}

// Check says whether the volume can be used. Like every other use it may take
// as long as the volume is away.
func (s *Store) Check() error {
	d, err := s.open()
	if err != nil {
		return err
	}
	d.close()
	return nil
}

// open opens the root anew, because the volume may have been mounted again. The
// path of the root itself is the operator's and may contain links.
func (s *Store) open() (*dir, error) {
	if err := s.available(); err != nil {
		return nil, fmt.Errorf("image store: %w", err)
	}
	f, err := os.OpenFile(s.root, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("image store: %w", err)
	}
	return &dir{f: f}, nil
}

// LocalDir is Options.LocalDir. It has a directory for each set, of its UID.
func (s *Store) LocalDir() string { return s.localDir }

// Set returns the image set of a migration, whether it exists or not. The same
// set is returned each time until it is removed.
func (s *Store) Set(uid string) (*Set, error) {
	if !validLabel(uid) {
		return nil, fmt.Errorf("%w: migration UID %q", ErrInvalidName, uid)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	set := s.sets[uid]
	if set == nil {
		set = &Set{store: s, uid: uid, rounds: map[roundKey]*roundWork{}, merges: map[string]*merge{}, follows: map[string]*following{}, stages: map[string]string{}}
		s.sets[uid] = set
	}
	return set, nil
}

// Free is the space on the volume that this node may still fill, in bytes.
func (s *Store) Free() (int64, error) {
	if err := s.available(); err != nil {
		return 0, fmt.Errorf("image store: %w", err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(s.root, &st); err != nil {
		return 0, fmt.Errorf("image store: statfs: %w", err)
	}
	return int64(st.Bavail) * st.Frsize, nil
}

// Sweep removes the sets of all migrations that keep does not want, and returns
// their UIDs. Names that are not a migration's are left alone. One set that
// cannot be removed does not keep the others from being swept. Both nodes may
// sweep at once.
func (s *Store) Sweep(ctx context.Context, keep func(uid string) bool) ([]string, error) {
	root, err := s.open()
	if err != nil {
		return nil, err
	}
	defer root.close()
	entries, err := root.list()
	if err != nil {
		return nil, err
	}
	var swept []string
	var errs []error
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return swept, errors.Join(append(errs, err)...)
		}
		if !e.IsDir() || !validLabel(e.Name()) || keep(e.Name()) {
			continue
		}
		set, err := s.Set(e.Name())
		if err == nil {
			err = set.Remove(ctx)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		swept = append(swept, e.Name())
	}
	return swept, errors.Join(errs...)
}

// forget drops what is remembered about a set.
func (s *Store) forget(uid string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sets, uid)
	for _, dir := range []string{s.stateDir, s.localDir} {
		if dir == "" {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, uid)); err != nil {
			return fmt.Errorf("image store: %w", err)
		}
	}
	return nil
}
