// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package runtimetest

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"godwit.dev/godwit/node-agent/runtime"
)

// packer packs the trees of a workload again and again.
type packer struct {
	n    Node
	dirs []string
	have map[string]runtime.Copied
}

// pack packs what has changed and returns how much that was. The workload stands still,
// or runs.
func (p *packer) pack(t *testing.T, w Workload, dir string, runs bool) int64 {
	t.Helper()
	if p.have == nil {
		p.have = map[string]runtime.Copied{}
	}
	dir = filepath.Join(p.n.Volume, dir)
	p.dirs = append(p.dirs, dir)
	var bytes int64
	for _, tree := range p.n.Files.Trees(w.Info()) {
		o := runtime.PackOptions{Dir: dir, Since: p.have[tree.Name]}
		if runs {
			o.Running = []runtime.Container{w.Info()}
		}
		packed, err := p.n.Files.Pack(step(t), tree, o)
		noError(t, "Pack of "+tree.Name, err)
		p.have[tree.Name] = packed.Copied
		bytes += packed.Bytes
	}
	return bytes
}

// packFrozen packs all of a workload that stands still.
func packFrozen(t *testing.T, n Node, w Workload) (dirs []string, bytes int64) {
	t.Helper()
	p := &packer{n: n}
	bytes = p.pack(t, w, "files", false)
	return p.dirs, bytes
}

// Unpack applies what was packed into directories to a bundle, in their order.
func Unpack(ctx context.Context, f runtime.Files, dirs []string, bundle string) error {
	trees, err := f.BundleTrees(bundle)
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		for _, tree := range trees {
			if err := unpack(ctx, f, tree, filepath.Join(dir, tree.Archive())); err != nil {
				return err
			}
		}
	}
	return nil
}

func unpack(ctx context.Context, f runtime.Files, tree runtime.Tree, name string) error {
	in, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer in.Close()
	fi, err := in.Stat()
	if err != nil {
		return err
	}
	return f.Unpack(ctx, tree, in, fi.Size())
}

// testFiles: most is copied while the container runs, and what has changed since when it
// is frozen.
func testFiles(t *testing.T, n Node) {
	w := n.Start(t)
	big := string(make([]byte, 1<<20)) + "end"
	w.WriteFile(t, "data/big", big)
	w.WriteFile(t, "data/note", "first")
	for _, tree := range n.Files.Trees(w.Info()) {
		if size, err := n.Files.Size(step(t), tree); err != nil || tree.Overlay && size < int64(len(big)) {
			t.Errorf("%s has about %d bytes, %v", tree.Name, size, err)
		}
	}
	p := &packer{n: n}
	first := p.pack(t, w, "files-0", true)
	if first < int64(len(big)) {
		t.Errorf("the first time %d bytes were packed", first)
	}
	proceeds(t, w)
	// What was written just before it was packed is looked at once more.
	p.pack(t, w, "files-1", true)
	w.WriteFile(t, "data/note", "second")
	w.WriteFile(t, "data/more", "more")
	// The agent is restarted.
	for name, c := range p.have {
		b, err := c.MarshalBinary()
		noError(t, "MarshalBinary", err)
		p.have[name], err = n.Files.Load(b)
		noError(t, "Load", err)
	}
	second := p.pack(t, w, "files-2", true)
	proceeds(t, w)
	w.WriteFile(t, "data/note", "third")
	final, _ := freezeAndDump(t, n, w)
	last := p.pack(t, w, "files", false)
	if second == 0 || second >= first/2 || last == 0 || last >= first/2 {
		t.Errorf("%d bytes were packed at first, then %d and at last %d", first, second, last)
	}
	before := stands(t, w)
	if again := p.pack(t, w, "files-again", false); again != 0 {
		t.Errorf("%d bytes were packed when nothing had changed", again)
	}
	noError(t, "Kill", n.Killer.Kill(step(t), w.Info()))
	restored := w.Restore(t, final.ImageDir, p.dirs...)
	for name, want := range map[string]string{"data/big": big, "data/note": "third", "data/more": "more"} {
		if got := restored.ReadFile(t, name); got != want {
			t.Errorf("%s has %d bytes, not %d", name, len(got), len(want))
		}
	}
	if now := proceeds(t, restored); now <= before {
		t.Errorf("restored at %d, was frozen at %d", now, before)
	}
}
