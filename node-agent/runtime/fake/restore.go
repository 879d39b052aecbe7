// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package fake

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"godwit.dev/godwit/node-agent/runtime"
)

// Restore is what the wrapper does on a real node: it starts a container from a
// final dump, with its whole chain, and goes on counting where the dump stopped.
func (r *Runtime) Restore(imageDir string, info runtime.Container) (*Container, error) {
	inv, err := ReadInventory(imageDir)
	if err != nil {
		return nil, err
	}
	if !inv.Final {
		return nil, fmt.Errorf("%s is a pre-dump; nothing can be restored from it", imageDir)
	}
	if err := checkChain(imageDir, inv); err != nil {
		return nil, err
	}
	c := r.Add(ContainerOptions{Info: info, MemoryBytes: inv.Pages * PageSize})
	r.mu.Lock()
	defer r.mu.Unlock()
	c.count = inv.Count
	return c, nil
}

// checkChain follows the parent links down to a full dump.
func checkChain(dir string, inv Inventory) error {
	for {
		fi, err := os.Stat(filepath.Join(dir, pagesName))
		if err != nil {
			return fmt.Errorf("round %d: %w", inv.Round, err)
		}
		if fi.Size() != inv.Written {
			return fmt.Errorf("round %d has %d pages, not %d", inv.Round, fi.Size(), inv.Written)
		}
		link, err := os.Readlink(filepath.Join(dir, parentName))
		if errors.Is(err, fs.ErrNotExist) {
			if inv.Written != inv.Pages {
				return fmt.Errorf("round %d has no parent and %d of %d pages", inv.Round, inv.Written, inv.Pages)
			}
			return nil
		}
		if err != nil {
			return err
		}
		dir = filepath.Join(dir, link)
		parent, err := ReadInventory(dir)
		if err != nil {
			return err
		}
		if parent.Round+1 != inv.Round || parent.ContainerID != inv.ContainerID {
			return fmt.Errorf("round %d of %s follows round %d of %s", inv.Round, inv.ContainerID, parent.Round, parent.ContainerID)
		}
		inv = parent
	}
}
