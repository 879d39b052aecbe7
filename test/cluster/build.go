// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"

	"github.com/spf13/cobra"

	"godwit.dev/godwit/test/cluster/internal/cache"
	"godwit.dev/godwit/test/cluster/internal/lifecycle"
	"godwit.dev/godwit/test/cluster/internal/progress"
)

func newBuildCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "build",
		Short: "Download and compile everything a cluster needs into the cache, and stop there",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := cache.Open()
			if err != nil {
				return err
			}
			report := progress.New(os.Stderr)
			announceWaits(c, report)
			_, err = lifecycle.BuildArtifacts(cmd.Context(), c, report)
			return err
		},
	}
}
