// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Package cache keeps what is downloaded or compiled outside the checkout. An
// artifact is a directory whose name is a key made of everything that went
// into it; it appears with one rename once it is complete.
package cache

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Cache is a directory of artifacts.
type Cache struct {
	root string

	// Waiting, if set, hears the name of a lock that another process holds
	// before Lock waits for it.
	Waiting func(name string)
}

// Open returns the cache in ${GODWIT_CACHE}, else in the user's cache
// directory, and creates it where needed.
func Open() (*Cache, error) {
	root := os.Getenv("GODWIT_CACHE")
	if root == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return nil, err
		}
		root = filepath.Join(user, "godwit")
	}
	return New(root)
}

// New returns the cache in root and creates it where needed.
func New(root string) (*Cache, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(root, 0o755); err != nil {
		return nil, err
	}
	return &Cache{root: root}, nil
}

// Root is the cache's directory.
func (c *Cache) Root() string { return c.root }

// Key hashes parts into a short name. Parts are length-prefixed, so moving a
// byte from one part to the next changes the key.
func Key(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil))[:16]
}

// Path is where the artifact name with that key is or will be.
func (c *Cache) Path(name, key string) string {
	return filepath.Join(c.root, "artifacts", name+"-"+key)
}

// Has tells whether the artifact is there.
func (c *Cache) Has(name, key string) bool {
	_, err := os.Stat(c.Path(name, key))
	return err == nil
}

// Artifact returns the directory of the artifact name with that key. If it is
// not there, build fills a fresh directory, which then becomes the artifact.
// Two processes that want the same artifact do not build it twice: the second
// waits for the first.
func (c *Cache) Artifact(ctx context.Context, name, key string, build func(dir string) error) (string, error) {
	final := c.Path(name, key)
	if c.Has(name, key) {
		return final, nil
	}
	lock, err := c.Lock(ctx, "artifact-"+name)
	if err != nil {
		return "", err
	}
	defer lock.Unlock()
	if c.Has(name, key) {
		return final, nil
	}
	// A build that was killed leaves its directory behind; under the lock
	// nobody else can be using it.
	temporary := final + ".partial"
	if err := os.RemoveAll(temporary); err != nil {
		return "", err
	}
	if err := os.MkdirAll(temporary, 0o755); err != nil {
		return "", err
	}
	if err := build(temporary); err != nil {
		return "", err
	}
	if err := os.Rename(temporary, final); err != nil {
		return "", err
	}
	return final, nil
}

// Lock is an exclusive lock held by this process.
type Lock struct {
	file *os.File
}

// Lock waits for the lock of that name and returns it. The lock ends with the
// process that holds it, however that ends. Cancelling ctx ends the wait.
func (c *Cache) Lock(ctx context.Context, name string) (*Lock, error) {
	dir := filepath.Join(c.root, "locks")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	// O_CLOEXEC (the default of package os) keeps children from holding it on.
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == nil {
		return &Lock{file: f}, nil
	}
	if c.Waiting != nil {
		c.Waiting(name)
	}
	locked := make(chan error, 1)
	go func() {
		for {
			err := unix.Flock(int(f.Fd()), unix.LOCK_EX)
			if !errors.Is(err, unix.EINTR) {
				locked <- err
				return
			}
		}
	}()
	select {
	case err := <-locked:
		if err != nil {
			f.Close()
			return nil, &fs.PathError{Op: "lock", Path: f.Name(), Err: err}
		}
		return &Lock{file: f}, nil
	case <-ctx.Done():
		// The waiting goroutine still uses the descriptor: close it when the
		// wait ends, which also gives the lock back.
		go func() {
			<-locked //nolint:errcheck // whether it got the lock does not matter any more
			_ = f.Close()
		}()
		return nil, fmt.Errorf("waiting for the lock %s: %w", name, ctx.Err())
	}
}

// Unlock gives the lock back.
func (l *Lock) Unlock() {
	l.file.Close()
}
