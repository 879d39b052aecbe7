// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"

	"godwit.dev/godwit/test/cluster/client"
	"godwit.dev/godwit/test/cluster/internal/cache"
	"godwit.dev/godwit/test/cluster/internal/lifecycle"
	"godwit.dev/godwit/test/cluster/internal/progress"
)

// openCluster returns the cluster of that name, running or not.
func openCluster(name string) (*lifecycle.Cluster, error) {
	c, err := cache.Open()
	if err != nil {
		return nil, err
	}
	report := progress.New(os.Stderr)
	announceWaits(c, report)
	return lifecycle.New(name, c, report)
}

// announceWaits makes the cache say what it waits for.
func announceWaits(c *cache.Cache, report *progress.Reporter) {
	c.Waiting = func(lock string) { report.Printf("another process holds the lock %s: waiting for it", lock) }
}

// openRunning returns a running cluster and a client of its nodes.
func openRunning(name string) (*lifecycle.Cluster, *client.Cluster, error) {
	c, err := openCluster(name)
	if err != nil {
		return nil, nil, err
	}
	if err := c.Running(); err != nil {
		return nil, nil, err
	}
	cl, err := c.Client()
	return c, cl, err
}
