// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"

	"godwit.dev/godwit/test/cluster/internal/lifecycle"
)

func newUpCommand(name *string) *cobra.Command {
	var options lifecycle.Options
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start the cluster and wait until both nodes are Ready",
		Long: "Start the cluster and wait until both nodes are Ready.\n" +
			"What is not in the cache is downloaded and compiled first. A running cluster is left as it is.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := openCluster(*name)
			if err != nil {
				return err
			}
			return c.Up(cmd.Context(), options)
		},
	}
	cmd.Flags().IntVar(&options.MemoryMiB, "memory", 5120, "memory of each node in MiB")
	cmd.Flags().IntVar(&options.CPUs, "cpus", 2, "processors of each node")
	cmd.Flags().IntVar(&options.VolumeGiB, "volume", 12, "size of the shared volume in GiB")
	return cmd
}
