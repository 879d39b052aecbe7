// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

func newCopyCommand(name *string) *cobra.Command {
	return &cobra.Command{
		Use:     "cp FROM TO",
		Short:   "Copy a file to or from a node",
		Example: "  cluster cp ./tool n1:/usr/local/bin/tool\n  cluster cp n2:/var/log/x.log ./x.log",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			from, fromPath, fromNode := strings.Cut(args[0], ":")
			to, toPath, toNode := strings.Cut(args[1], ":")
			if fromNode == toNode {
				return fmt.Errorf("exactly one of %q and %q must be NODE:PATH", args[0], args[1])
			}
			_, cl, err := openRunning(*name)
			if err != nil {
				return err
			}
			defer cl.Close()
			if toNode {
				n, err := cl.Node(to)
				if err != nil {
					return err
				}
				return n.CopyTo(cmd.Context(), args[0], toPath)
			}
			n, err := cl.Node(from)
			if err != nil {
				return err
			}
			return n.CopyFrom(cmd.Context(), fromPath, args[1])
		},
	}
}
