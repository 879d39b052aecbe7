// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"k8s.io/apimachinery/pkg/types"
)

// records are what the node remembers of migrations beyond the life of an agent:
// a file in a directory for each. What is done to a pod is recorded before it is
// done, so that whoever comes next can undo it.
type records[T any] struct{ dir string }

const recordSuffix = ".json"

func (r records[T]) path(uid types.UID) string {
	return filepath.Join(r.dir, string(uid)+recordSuffix)
}

// put writes a record so that it is there whole or not at all.
func (r records[T]) put(uid types.UID, v T) error { return writeJSON(r.path(uid), v) }

// get returns the record of a migration, nil when there is none.
func (r records[T]) get(uid types.UID) (*T, error) {
	b, err := os.ReadFile(r.path(uid))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	v := new(T)
	if err == nil {
		err = json.Unmarshal(b, v)
	}
	if err != nil {
		return nil, fmt.Errorf("read a record of %s: %w", filepath.Base(r.dir), err)
	}
	return v, nil
}

// all returns the records there are; those that cannot be read are in the error.
func (r records[T]) all() (map[types.UID]*T, error) {
	names, err := filepath.Glob(filepath.Join(r.dir, "*"+recordSuffix))
	if err != nil {
		return nil, err
	}
	all := map[types.UID]*T{}
	var errs []error
	for _, n := range names {
		uid := types.UID(strings.TrimSuffix(filepath.Base(n), recordSuffix))
		v, err := r.get(uid)
		if err != nil {
			errs = append(errs, err)
		} else if v != nil {
			all[uid] = v
		}
	}
	return all, errors.Join(errs...)
}

// remove forgets a record. Repeating is not an error.
func (r records[T]) remove(uid types.UID) error {
	if err := os.Remove(r.path(uid)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget a record of %s: %w", filepath.Base(r.dir), err)
	}
	return nil
}

// writeJSON writes a value so that the file has the old or the new one.
func writeJSON(path string, v any) error {
	b, err := json.Marshal(v)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(path), 0o700)
	}
	if err == nil {
		err = os.WriteFile(path+".tmp", b, 0o600)
	}
	if err == nil {
		err = os.Rename(path+".tmp", path)
	}
	return err
}
