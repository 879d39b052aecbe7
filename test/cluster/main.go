// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Command cluster runs a two-node Kubernetes cluster in virtual machines on one
// Debian machine, for tests: see README.md.
package main

import (
	"context"
	"errors"
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
	os.Exit(exitCode(err))
}

// exitError is an exit code to pass on from a command that has said itself what
// went wrong.
type exitError int

// Error names the code.
func (e exitError) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// exitCode prints err, unless the command has done so, and maps it to an exit
// code.
func exitCode(err error) int {
	var exit exitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return int(exit)
	default:
		fmt.Fprintln(os.Stderr, "cluster:", err)
		return 1
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
	)
	return root
}
