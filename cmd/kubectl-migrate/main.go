// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Command kubectl-migrate is the kubectl plugin: kubectl migrate moves running
// pods to other nodes and shows how that goes.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"k8s.io/cli-runtime/pkg/genericiooptions"
)

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	streams := genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr}
	err := newCommand(newOptions(streams)).ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	// What was shown already speaks for itself.
	if !errors.Is(err, errNotDone) {
		fmt.Fprintln(streams.ErrOut, "error:", err)
	}
	return 1
}
