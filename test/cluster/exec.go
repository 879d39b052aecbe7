// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/exec"

	"github.com/spf13/cobra"
)

func newExecCommand(name *string) *cobra.Command {
	return &cobra.Command{
		Use:   "exec -- COMMAND...",
		Short: "Run a host command inside the cluster's network, with KUBECONFIG set",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return execInside(*name, args)
		},
	}
}

// execInside becomes the command args inside the cluster's network.
func execInside(name string, args []string) error {
	c, err := openCluster(name)
	if err != nil {
		return err
	}
	if err := c.Running(); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	env, err := c.Environment(os.Environ(), self)
	if err != nil {
		return err
	}
	return replace(c.Namespace().Args(args...), env)
}

// lookPath is exec.LookPath; ip(8) is found where the PATH has no system
// directories, too.
func lookPath(program string) (string, error) {
	if path, err := exec.LookPath(program); err == nil {
		return path, nil
	}
	return exec.LookPath("/usr/sbin/" + program)
}
