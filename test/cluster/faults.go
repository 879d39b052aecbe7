// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"

	"github.com/spf13/cobra"

	"godwit.dev/godwit/test/cluster/internal/lifecycle"
)

// simple makes a command that does one thing to a cluster.
func simple(name *string, use, short string, do func(context.Context, *lifecycle.Cluster) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := openCluster(*name)
			if err != nil {
				return err
			}
			return do(cmd.Context(), c)
		},
	}
}

func newAPICommand(name *string) *cobra.Command {
	cmd := &cobra.Command{Use: "api", Short: "Pause, resume, restart or cut off the API server, as a fault"}
	cmd.AddCommand(
		simple(name, "pause", "Make it stand still", func(ctx context.Context, c *lifecycle.Cluster) error { return c.PauseAPI(ctx) }),
		simple(name, "resume", "Let it go on", func(ctx context.Context, c *lifecycle.Cluster) error { return c.ResumeAPI(ctx) }),
		simple(name, "restart", "Kill it, start it again and wait until it is ready", func(ctx context.Context, c *lifecycle.Cluster) error { return c.RestartAPI(ctx) }),
		simple(name, "heal", "Let every node reach it again", func(ctx context.Context, c *lifecycle.Cluster) error { return c.HealAPI(ctx) }),
		&cobra.Command{
			Use: "cut NODE", Short: "Cut a node and its pods off from it", Args: cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				c, err := openCluster(*name)
				if err != nil {
					return err
				}
				return c.CutAPI(cmd.Context(), args[0])
			},
		},
	)
	return cmd
}

func newVolumeCommand(name *string) *cobra.Command {
	cmd := &cobra.Command{Use: "volume", Short: "Fill or free the shared volume, as a fault"}
	var leave int64
	fill := simple(name, "fill", "Fill it up", func(ctx context.Context, c *lifecycle.Cluster) error { return c.FillVolume(ctx, leave) })
	fill.Flags().Int64Var(&leave, "leave", 0, "bytes that stay free")
	cmd.AddCommand(fill, simple(name, "free", "Take back what was filled", func(ctx context.Context, c *lifecycle.Cluster) error { return c.FreeVolume(ctx) }))
	return cmd
}
