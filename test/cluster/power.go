// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import "github.com/spf13/cobra"

func newPowerOffCommand(name *string) *cobra.Command {
	return &cobra.Command{
		Use:   "power-off NODE",
		Short: "Kill a node's virtual machine at once, like a power failure",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := openCluster(*name)
			if err != nil {
				return err
			}
			return c.PowerOff(cmd.Context(), args[0])
		},
	}
}

func newPowerOnCommand(name *string) *cobra.Command {
	return &cobra.Command{
		Use:   "power-on NODE",
		Short: "Start a node's virtual machine again and wait until one can log in",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := openCluster(*name)
			if err != nil {
				return err
			}
			return c.PowerOn(cmd.Context(), args[0])
		},
	}
}
