// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

func newWatch(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "watch NAME",
		Short: "Show a migration until it is finished",
		Long: `Show a migration until it is finished: a bar for each round of pre-copy, with
what was copied and, shaded, what had changed again; then the switchover.
Without a terminal each line is printed once.

Fails unless the pod was moved.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := nameOf(args[0])
			if err != nil {
				return err
			}
			c, ns, err := o.connect()
			if err != nil {
				return err
			}
			return o.showUntilDone(cmd.Context(), c, client.ObjectKey{Namespace: ns, Name: name})
		},
	}
}
