// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// nodeLogs are the commands whose output is collected from each node, by the
// name of the file that receives it.
var nodeLogs = map[string]string{
	"journal.log":    "journalctl --no-pager --output=short-precise",
	"kubelet.log":    "journalctl --no-pager --output=short-precise -u kubelet",
	"containerd.log": "journalctl --no-pager --output=short-precise -u containerd",
	"kernel.log":     "dmesg --time-format iso",
	"processes.txt":  "ps -eo pid,ppid,stat,pcpu,pmem,rss,etime,args --forest",
	"containers.txt": "ctr -n k8s.io containers ls; ctr -n k8s.io tasks ls; runc --root /run/containerd/runc/k8s.io list; ctr -n k8s.io images ls",
	"network.txt":    "ip addr; ip route; nft list ruleset",
	"mounts.txt":     "findmnt; df -h",
	"config.txt":     "tail -n +1 /etc/containerd/config.toml /etc/containerd/conf.d/* /etc/kubernetes/*.yaml 2>/dev/null",
	"pods.tar":       "tar -C /var/log -cf - pods",
}

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
			err := n.collectLogs(ctx, filepath.Join(dir, n.Name))
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
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
		if err := copyFile(name, filepath.Join(to, filepath.Base(name))); err != nil {
			return err
		}
	}
	return nil
}

func copyFile(from, to string) error {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.Create(to)
	if err != nil {
		return err
	}
	if _, err := io.Copy(target, source); err != nil {
		target.Close()
		return err
	}
	return target.Close()
}

// collectLogs writes the node's logs into dir.
func (n *Node) collectLogs(ctx context.Context, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	// One look at a node that is off is enough.
	reach, cancel := context.WithTimeout(ctx, 20*time.Second)
	_, err := n.Run(reach, "true")
	cancel()
	if err != nil {
		return fmt.Errorf("logs of %s: %w", n.Name, err)
	}
	var errs []error
	for name, line := range nodeLogs {
		if err := n.collect(ctx, line, filepath.Join(dir, name)); err != nil {
			errs = append(errs, fmt.Errorf("logs of %s: %s: %w", n.Name, name, err))
		}
	}
	return errors.Join(errs...)
}

// collect writes the output of a line of shell to a file. Its exit code does
// not matter: what it said does.
func (n *Node) collect(ctx context.Context, line, path string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = n.Stream(ctx, line, nil, f, io.Discard)
	return err
}
