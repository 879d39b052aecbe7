// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package criu

import (
	"errors"
	"os"

	"godwit.dev/godwit/node-agent/runtime/host"
)

// removeAll removes a name below an open directory and nothing outside it.
func removeAll(dir *os.File, name string) error {
	root, err := os.OpenRoot(host.FDPath(dir))
	if err != nil {
		return err
	}
	return errors.Join(root.RemoveAll(name), root.Close())
}
