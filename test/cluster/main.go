// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Command cluster runs a two-node Kubernetes cluster in virtual machines on one
// Debian machine, for tests: see README.md.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := newRootCommand().ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "cluster",
		Short:         "A two-node Kubernetes cluster in virtual machines, for tests",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	name := root.PersistentFlags().String("name", "godwit", "which cluster")
	root.AddCommand(
		newBuildCommand(),
		newAssetsCommand(),
		newUpCommand(name),
		newDownCommand(name),
		newStatusCommand(name),
		newSSHCommand(name),
		newKubectlCommand(name),
		newExecCommand(name),
		newLoadImageCommand(name),
		newCopyCommand(name),
		newLogsCommand(name),
		newPowerOffCommand(name),
		newPowerOnCommand(name),
		newNFSCommand(name),
		newAPICommand(name),
		newVolumeCommand(name),
		newServeTimeCommand(),
	)
	return root
}
