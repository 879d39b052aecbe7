// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/progress"
)

func newReport(o *options) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "report NAME",
		Short: "Print a migration's rounds and how its downtime came about",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if output != "" && output != "json" && output != "yaml" {
				return fmt.Errorf("--output must be json or yaml, not %q", output)
			}
			name, err := nameOf(args[0])
			if err != nil {
				return err
			}
			c, ns, err := o.connect()
			if err != nil {
				return err
			}
			m := &v1alpha1.Migration{}
			if err := c.Get(cmd.Context(), client.ObjectKey{Namespace: ns, Name: name}, m); err != nil {
				return fmt.Errorf("get migration: %w", err)
			}
			return o.report(progress.Summarize(m), output)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "json or yaml instead of a table")
	return cmd
}

func (o *options) report(s progress.Summary, output string) error {
	if output == "" {
		return s.WriteTable(o.Out)
	}
	b, err := json.MarshalIndent(s, "", "  ")
	if err == nil && output == "yaml" {
		b, err = yaml.JSONToYAML(b)
	}
	if err != nil {
		return fmt.Errorf("encode report: %w", err)
	}
	if output == "json" {
		b = append(b, '\n')
	}
	if _, err := o.Out.Write(b); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}
