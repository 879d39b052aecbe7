// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"syscall"

	"github.com/spf13/cobra"
)

func newSSHCommand(name *string) *cobra.Command {
	return &cobra.Command{
		Use:                "ssh NODE [COMMAND...]",
		Short:              "Log in to a node, or run a line of shell there",
		Args:               cobra.MinimumNArgs(1),
		DisableFlagParsing: false,
		RunE: func(_ *cobra.Command, args []string) error {
			c, err := openCluster(*name)
			if err != nil {
				return err
			}
			if err := c.Running(); err != nil {
				return err
			}
			ssh, err := c.SSHArgs(args[0], args[1:])
			if err != nil {
				return err
			}
			return replace(ssh, os.Environ())
		},
	}
}

// replace makes the program args this process, so that its exit code, its
// signals and its terminal are its own.
func replace(args, env []string) error {
	path, err := lookPath(args[0])
	if err != nil {
		return err
	}
	return syscall.Exec(path, args, env)
}
