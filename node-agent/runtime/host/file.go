// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package host

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// maxFile bounds what ReadFile takes into memory; files of the node that the
// agent reads (configurations, logs, /proc) are far smaller.
const maxFile = 64 << 20

// readAll reads a file that is expected to be small. Files of /proc and
// cgroupfs have no size, so it cannot be asked for first.
func readAll(f *os.File) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = fmt.Errorf("read %s: larger than %d bytes", f.Name(), maxFile)
	}
	return b, err
}

// WriteAtomic replaces a file by way of a temporary one in the same directory,
// whose name begins with a dot: a reader sees the old or the new content, never a
// part, also after a crash. When it returns nil, the new one is on the disk.
func WriteAtomic(name string, data []byte, perm os.FileMode) (err error) {
	dir, base := filepath.Split(name)
	tmp, err := os.CreateTemp(dir, "."+base+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, tmp.Close(), os.Remove(tmp.Name()))
		}
	}()
	if _, err := tmp.Write(data); err != nil {
		return err
	}
	if err := tmp.Chmod(perm); err != nil {
		return err
	}
	if err := tmp.Sync(); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), name); err != nil {
		return err
	}
	return errors.Join(tmp.Close(), SyncDir(dir))
}

// SyncDir makes the names in a directory durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
