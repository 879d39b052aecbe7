// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package client

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"godwit.dev/godwit/test/cluster/internal/shell"
)

// nodeLogs are the lines of shell whose output is collected from each node,
// with the file that receives it.
var nodeLogs = []struct{ file, line string }{
	{"journal.log", "journalctl --no-pager --output=short-precise"},
	{"kernel.log", "dmesg --time-format iso"},
	{"processes.txt", "ps -eo pid,ppid,stat,pcpu,pmem,rss,etime,args --forest"},
	{"containers.txt", "ctr -n k8s.io containers ls; runc --root /run/containerd/runc/k8s.io list; ctr -n k8s.io images ls"},
	{"network.txt", "ip addr; ip route; nft list ruleset"},
	{"mounts.txt", "findmnt; df -h"},
	{"config.txt", "tail -n +1 /etc/containerd/config.toml /etc/containerd/conf.d/* /etc/kubernetes/*.yaml"},
}

// collectLimit bounds the collection of one node's logs.
const collectLimit = 3 * time.Minute

// CollectLogs writes the logs of the cluster's parts and of all nodes into dir.
// What cannot be had (the logs of a node that is off) does not keep the rest
// from being written; the error names it.
func (c *Cluster) CollectLogs(ctx context.Context, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	errs := []error{copyLogs(filepath.Join(c.dir, "logs"), dir)}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, n := range c.Nodes() {
		wg.Go(func() {
			if err := n.collectLogs(ctx, filepath.Join(dir, n.Name)); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, fmt.Errorf("logs of %s: %w", n.Name, err))
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func copyLogs(from, to string) error {
	files, err := filepath.Glob(filepath.Join(from, "*.log"))
	if err != nil {
		return err
	}
	for _, name := range files {
		source, err := os.Open(name)
		if err != nil {
			return err
		}
		err = writeFile(filepath.Join(to, filepath.Base(name)), source)
		source.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// logScript writes an archive of all logs to its standard output. It is one
// script because each command over SSH costs an emulated node a second.
func logScript() string {
	script := "d=$(mktemp -d) && cd $d || exit 1\n"
	for _, l := range nodeLogs {
		script += fmt.Sprintf("{ %s; } >%s 2>&1\n", l.line, l.file)
	}
	// The pods' own logs; a file that grows meanwhile is no failure.
	return script + "tar -cf - * -C /var/log pods; cd /; rm -rf $d\n"
}

// collectLogs writes the node's logs into dir.
func (n *Node) collectLogs(ctx context.Context, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	// A node that is off does not answer at all.
	reach, cancel := context.WithTimeout(ctx, 20*time.Second)
	_, err := n.Run(reach, "true")
	cancel()
	if err != nil {
		return err
	}
	ctx, cancel = context.WithTimeout(ctx, collectLimit)
	defer cancel()
	reader, writer := io.Pipe()
	unpacked := make(chan error, 1)
	go func() {
		err := unpack(reader, dir)
		// Let the sender end, whatever was wrong with what it sent.
		_, _ = io.Copy(io.Discard, reader)
		unpacked <- err
	}()
	_, err = n.Stream(ctx, "sh -c "+shell.Quote(logScript()), nil, writer, io.Discard)
	writer.CloseWithError(err)
	if err := errors.Join(err, <-unpacked); err != nil {
		return err
	}
	for _, unit := range []string{"kubelet", "containerd"} {
		if err := filterJournal(dir, unit); err != nil {
			return err
		}
	}
	return nil
}

// unpack writes the regular files of an archive below dir.
func unpack(archive io.Reader, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	r := tar.NewReader(archive)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		if err := root.MkdirAll(filepath.Dir(h.Name), 0o755); err != nil {
			return err
		}
		f, err := root.Create(h.Name)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, r)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
}

// filterJournal writes the journal's lines of one program to a file of its own.
func filterJournal(dir, program string) error {
	journal, err := os.Open(filepath.Join(dir, "journal.log"))
	if err != nil {
		return err
	}
	defer journal.Close()
	var out strings.Builder
	lines := bufio.NewReader(journal)
	for {
		line, err := lines.ReadString('\n')
		if strings.Contains(line, " "+program+"[") {
			out.WriteString(line)
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, program+".log"), []byte(out.String()), 0o644)
}

func writeFile(path string, content io.Reader) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	return errors.Join(err, f.Close())
}
