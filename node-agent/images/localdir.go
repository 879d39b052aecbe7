// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package images

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// errLocalDir: others could change what is restored.
var errLocalDir = errors.New("not a directory of ours alone")

// CheckLocalDir makes a directory for Options.LocalDir, and says why it must not be used:
// it lies where others may make files as well, and who was there first could put memory of
// their own into the processes that are restored from it. asNode is the path by which the
// node's programs come to it. What is wrong there has to be removed by hand.
func CheckLocalDir(dir, asNode string) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("image store: %w", err)
	}
	var seen []fs.FileInfo
	for _, name := range []string{dir, asNode} {
		fi, err := os.Lstat(name)
		if err != nil {
			return fmt.Errorf("image store: %w", err)
		}
		st, ok := fi.Sys().(*syscall.Stat_t)
		if !fi.IsDir() || !ok || int(st.Uid) != os.Geteuid() || fi.Mode()&0o022 != 0 {
			return fmt.Errorf("%w: %s (%s); remove it and restart the agent", errLocalDir, name, fi.Mode())
		}
		seen = append(seen, fi)
	}
	if !os.SameFile(seen[0], seen[1]) {
		return fmt.Errorf("%w: %s is another one for the node", errLocalDir, dir)
	}
	return nil
}
