// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import "github.com/spf13/cobra"

func newDownCommand(name *string) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Remove the cluster, with all its processes, mounts and files",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := openCluster(*name)
			if err != nil {
				return err
			}
			return c.Down(cmd.Context(), force)
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "also end programs that were started with exec and still run")
	return cmd
}
