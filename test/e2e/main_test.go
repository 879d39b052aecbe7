// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Package e2e holds the end-to-end tests: whole migrations between the nodes of
// a real cluster, one file per scenario. They run inside the cluster's network
// namespace; “make e2e” brings a cluster up and starts them in it.
package e2e

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"godwit.dev/godwit/test/harness"
)

// cluster is what all tests run on. Godwit is installed there once.
var cluster *harness.Harness

// used are the namespaces of the tests that have ended.
var used []string

func TestMain(m *testing.M) {
	if os.Getenv("CLUSTER") == "" || os.Getenv("KUBECONFIG") == "" {
		fmt.Println("e2e: skipped, this is not a cluster (CLUSTER and KUBECONFIG are not set): use make e2e")
		return
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	config, err := harness.ConfigFromEnvironment()
	if err == nil {
		cluster, err = harness.New(config, os.Stderr)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	defer func() { _ = cluster.Close() }()
	if cluster.TooLate() {
		return m.Run() // which skips them all
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	if err := cluster.Install(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "e2e: install:", err)
		if problem := cluster.Collect(ctx, harness.Namespace, config.Artifacts+"/install"); problem != nil {
			fmt.Fprintln(os.Stderr, "e2e: collect logs:", problem)
		}
		return 1
	}
	code := m.Run()
	return max(code, removed())
}

// removed says, as an exit code, whether the namespaces of all tests go away.
func removed() (code int) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	for _, name := range used {
		if err := cluster.RemoveNamespace(ctx, name); err != nil {
			fmt.Fprintln(os.Stderr, "e2e: clean up:", err)
			code = 1
		}
	}
	return code
}
