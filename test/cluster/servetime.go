// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net"

	"github.com/spf13/cobra"

	"godwit.dev/godwit/test/cluster/internal/lifecycle"
	"godwit.dev/godwit/test/cluster/internal/timeserver"
)

// newServeTimeCommand is how "up" runs the time server: as a process of its own
// that outlives it.
func newServeTimeCommand() *cobra.Command {
	return &cobra.Command{
		Use:    lifecycle.ServeTimeVerb + " ADDRESS",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			conn, err := net.ListenPacket("udp", args[0])
			if err != nil {
				return err
			}
			return timeserver.Serve(cmd.Context(), conn)
		},
	}
}
