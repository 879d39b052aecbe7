// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	clusterclient "godwit.dev/godwit/test/cluster/client"
)

// VolumeFilesWith returns the names, relative to the shared volume, of the files
// there that contain the text. It reads them where the server has them.
func (h *Harness) VolumeFilesWith(ctx context.Context, text string) ([]string, error) {
	dir, err := h.Nodes.VolumeDir(ctx)
	if err != nil {
		return nil, err
	}
	return filesWith(dir, text)
}

func filesWith(dir, text string) ([]string, error) {
	var found []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		if err == nil && bytes.Contains(content, []byte(text)) {
			found = append(found, strings.TrimPrefix(path, dir+"/"))
		}
		return err
	})
	return found, err
}

// NodeFilesWith returns the files below a directory of the node that contain the
// text.
func NodeFilesWith(ctx context.Context, node *clusterclient.Node, dir, text string) ([]string, error) {
	var out, complaint bytes.Buffer
	// The text does not become part of any command's arguments.
	code, err := node.Stream(ctx, "grep -rlaF -f - -- "+dir, strings.NewReader(text+"\n"), &out, &complaint)
	if err == nil && code > 1 { // 1: in no file
		err = fmt.Errorf("%s: grep: exit code %d: %s", node.Name, code, complaint.String())
	}
	return strings.Fields(out.String()), err
}

// VolumeDirsOpenToOthers returns the directories of a migration's image set, and
// their modes, that anyone but root may enter, list or change. It is an error
// when there is no such set.
func (h *Harness) VolumeDirsOpenToOthers(ctx context.Context, set string) ([]string, error) {
	dir, err := h.Nodes.VolumeDir(ctx)
	if err != nil {
		return nil, err
	}
	return openToOthers(filepath.Join(dir, set))
}

func openToOthers(dir string) ([]string, error) {
	var found []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm() != 0o700 {
			found = append(found, fmt.Sprintf("%s %o", path, info.Mode().Perm()))
		}
		return err
	})
	return found, err
}
