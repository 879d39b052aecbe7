// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// initModules are what stands between the kernel and the root file system.
var initModules = []string{"kernel/drivers/block/virtio_blk.ko"}

// writeInitRD writes an initial RAM file system of our init program and the
// modules it loads.
func writeInitRD(path, init, tree, kernel string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	w := &cpioWriter{out: f}
	program, err := os.ReadFile(init)
	if err != nil {
		return err
	}
	w.add("init", 0o100755, program)
	w.add("modules", 0o040755, nil)
	for i, m := range initModules {
		content, err := os.ReadFile(filepath.Join(tree, "usr/lib/modules", kernel, m))
		if err != nil {
			return err
		}
		w.add(fmt.Sprintf("modules/%02d-%s", i, filepath.Base(m)), 0o100644, content)
	}
	w.add("TRAILER!!!", 0, nil)
	if w.err != nil {
		return w.err
	}
	return f.Close()
}

// cpioWriter writes the "newc" format, the one the kernel unpacks. It keeps the
// first error.
type cpioWriter struct {
	out     io.Writer
	written int64
	inode   int
	err     error
}

func (w *cpioWriter) add(name string, mode uint32, content []byte) {
	w.inode++
	// Magic, inode, mode, uid, gid, links, mtime, size, two device numbers,
	// two special device numbers, length of the name with its end, checksum.
	w.write(fmt.Appendf(nil, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		w.inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name)+1, 0))
	w.write(append([]byte(name), 0))
	w.pad()
	w.write(content)
	w.pad()
}

func (w *cpioWriter) pad() {
	w.write(make([]byte, (4-w.written%4)%4))
}

func (w *cpioWriter) write(p []byte) {
	if w.err != nil {
		return
	}
	n, err := w.out.Write(p)
	w.written += int64(n)
	w.err = err
}
