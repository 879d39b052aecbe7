// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"godwit.dev/godwit/test/cluster/internal/cache"
	"godwit.dev/godwit/test/cluster/internal/lifecycle"
	"godwit.dev/godwit/test/cluster/internal/progress"
)

func newAssetsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "assets",
		Short: "Compile the API server, etcd and kubectl into the cache, and print a directory with links to them",
		Long: "Compile the API server, etcd and kubectl into the cache, and print a directory with links to them.\n" +
			"It is what envtest takes as KUBEBUILDER_ASSETS.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := cache.Open()
			if err != nil {
				return err
			}
			dir, err := lifecycle.BuildAssets(cmd.Context(), c, progress.New(os.Stderr))
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), dir)
			return err
		},
	}
}
