// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func newLogsCommand(name *string) *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "logs",
		Short: "Collect the logs of all parts and of both nodes in a directory",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := openCluster(*name)
			if err != nil {
				return err
			}
			cl, err := c.Client()
			if err != nil {
				return err
			}
			defer cl.Close()
			if dir == "" {
				dir = "artifacts/cluster-" + *name
			}
			err = cl.CollectLogs(cmd.Context(), dir)
			fmt.Fprintln(cmd.OutOrStdout(), dir)
			return err
		},
	}
	cmd.Flags().StringVarP(&dir, "output", "o", "", "directory (default artifacts/cluster-NAME)")
	return cmd
}
