// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package nri

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"godwit.dev/godwit/node-agent/runtime"
	"godwit.dev/godwit/node-agent/runtime/host"
)

// DefaultRecords is where guarded pods are recorded, a path of the node: a file
// for each, on a file system that a restart of the node does not clear.
const DefaultRecords = "/var/lib/godwit/guarded"

const recordSuffix = ".json"

// records are the guarded pods. A record that is there counts, whatever it holds.
type records struct{ dir string }

func (r records) path(podUID string) string { return filepath.Join(r.dir, podUID+recordSuffix) }

// put writes a record so that it is on the disk when put returns.
func (r records) put(g runtime.Guarded) error {
	if !isName(g.PodUID) {
		return fmt.Errorf("guard pod %s/%s: %q is no UID", g.Namespace, g.Pod, g.PodUID)
	}
	if have, err := r.get(g.PodUID); err == nil && have != nil && *have == g {
		return nil
	}
	b, err := json.Marshal(g)
	if err == nil {
		err = os.MkdirAll(r.dir, 0o700)
	}
	if err == nil {
		err = host.WriteAtomic(r.path(g.PodUID), b, 0o600)
	}
	if err != nil {
		return fmt.Errorf("guard pod %s/%s: %w", g.Namespace, g.Pod, err)
	}
	return nil
}

// get returns a pod's record, nil when there is none.
func (r records) get(podUID string) (*runtime.Guarded, error) {
	if !isName(podUID) {
		return nil, nil
	}
	b, err := os.ReadFile(r.path(podUID))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	g := new(runtime.Guarded)
	if err == nil {
		err = json.Unmarshal(b, g)
	}
	if err != nil {
		return nil, fmt.Errorf("read the record of guarded pod %s: %w", podUID, err)
	}
	return g, nil
}

func (r records) all() ([]runtime.Guarded, error) {
	entries, err := os.ReadDir(r.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list the guarded pods: %w", err)
	}
	var all []runtime.Guarded
	var errs []error
	for _, e := range entries {
		uid, ok := strings.CutSuffix(e.Name(), recordSuffix)
		if !ok {
			continue // a temporary file that a crash has left
		}
		g, err := r.get(uid)
		if err != nil {
			errs = append(errs, err)
		} else if g != nil {
			all = append(all, *g)
		}
	}
	return all, errors.Join(errs...)
}

func (r records) remove(podUID string) error {
	if !isName(podUID) {
		return nil
	}
	if err := os.Remove(r.path(podUID)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("release guarded pod %s: %w", podUID, err)
	}
	return nil
}

// isName says whether a UID can be a part of a file's name. Those of pods are.
func isName(uid string) bool { return uid != "" && uid == filepath.Base(uid) && uid[0] != '.' }
