// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"

	"github.com/spf13/cobra"
)

func newKubectlCommand(name *string) *cobra.Command {
	return &cobra.Command{
		Use:   "kubectl [--name NAME] ARGS...",
		Short: "Run kubectl as the cluster's administrator",
		// Every flag but a leading --name is kubectl's.
		DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error {
			cluster, args := leadingName(*name, args)
			c, err := openCluster(cluster)
			if err != nil {
				return err
			}
			kubectl, err := c.Program("kubectl")
			if err != nil {
				return err
			}
			return execInside(cluster, append([]string{kubectl}, args...))
		},
	}
}

// leadingName takes --name off the front of args.
func leadingName(name string, args []string) (string, []string) {
	switch {
	case len(args) >= 2 && args[0] == "--name":
		return args[1], args[2:]
	case len(args) >= 1 && strings.HasPrefix(args[0], "--name="):
		return strings.TrimPrefix(args[0], "--name="), args[1:]
	}
	return name, args
}
