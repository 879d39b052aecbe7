// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import "github.com/spf13/cobra"

func newLoadImageCommand(name *string) *cobra.Command {
	return &cobra.Command{
		Use:   "load-image ARCHIVE...",
		Short: "Import OCI or docker archives into containerd on both nodes",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, cl, err := openRunning(*name)
			if err != nil {
				return err
			}
			defer cl.Close()
			return cl.LoadImages(cmd.Context(), args...)
		},
	}
}
