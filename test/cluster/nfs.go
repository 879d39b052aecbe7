// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func newNFSCommand(name *string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "nfs",
		Short: "Stop or start the server of the shared volume, or look behind it",
	}
	cmd.AddCommand(
		&cobra.Command{
			Use:   "stop",
			Short: "Kill the server",
			Args:  cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				c, err := openCluster(*name)
				if err != nil {
					return err
				}
				return c.StopNFS(cmd.Context())
			},
		},
		&cobra.Command{
			Use:   "start",
			Short: "Start the server and wait until it accepts connections",
			Args:  cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				c, err := openCluster(*name)
				if err != nil {
					return err
				}
				return c.StartNFS(cmd.Context())
			},
		},
		&cobra.Command{
			Use:   "dir",
			Short: "Print where the host sees what the server exports",
			Args:  cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				c, err := openCluster(*name)
				if err != nil {
					return err
				}
				dir, err := c.ExportDir()
				if err != nil {
					return err
				}
				_, err = fmt.Fprintln(cmd.OutOrStdout(), dir)
				return err
			},
		},
	)
	return cmd
}
