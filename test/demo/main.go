// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Command demo shows a live migration: it installs the chart into the cluster
// it is started in, fills a Redis server, moves it to the other node while a
// client keeps writing and reading, and reports what that client and the
// cluster have seen. Its exit status is 0 only if every acknowledged write is
// there afterwards.
//
// COMPARE=1 moves the pod back with a stop-and-copy, compares, and fails when
// the live migration was not clearly better. KEEP=1 leaves the database and its
// Migration in place and says how to go on by hand. “make demo” brings the
// cluster up and runs this program in it.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"godwit.dev/godwit/test/harness"
)

// limit bounds the whole demonstration.
const limit = 25 * time.Minute

// reportFile is where the report goes for programs to read.
const reportFile = "artifacts/demo.json"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	ctx, cancel := context.WithTimeout(ctx, limit)
	err := run(ctx, os.Getenv("COMPARE") == "1")
	cancel()
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "\ndemo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, compare bool) error {
	config, err := harness.ConfigFromEnvironment()
	if err != nil {
		return err
	}
	h, err := harness.New(config, os.Stderr)
	if err != nil {
		return err
	}
	defer func() { _ = h.Close() }()

	d := &demo{Harness: h, screen: newScreen(os.Stdout)}
	err = d.play(ctx, compare)
	if err != nil && d.installed {
		// The deadline may be what failed: collecting has one of its own.
		collect, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Minute)
		defer cancel()
		dir := filepath.Join(config.Artifacts, "demo")
		if problem := h.Collect(collect, namespace, dir); problem != nil {
			d.screen.line("collecting logs: %v", problem)
		}
		d.screen.line("logs are in %s", dir)
	}
	return err
}
