// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"

	"godwit.dev/godwit/api/v1alpha1"
)

func newNodes(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "nodes",
		Short: "List which nodes can take part in migrations",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, _, err := o.connect()
			if err != nil {
				return err
			}
			var list corev1.NodeList
			if err := c.List(cmd.Context(), &list); err != nil {
				return fmt.Errorf("list nodes: %w", err)
			}
			return writeNodes(o.Out, list.Items)
		},
	}
}

func writeNodes(w io.Writer, nodes []corev1.Node) error {
	slices.SortFunc(nodes, func(a, b corev1.Node) int { return cmp.Compare(a.Name, b.Name) })
	tw := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(tw, "NODE\tABLE\tDIRTY TRACKING\tCRIU\tRUNC\tCONTAINERD\tKERNEL\tWHY NOT")
	for i := range nodes {
		n := &nodes[i]
		facts, why := factsOf(n)
		if why == "" && n.Spec.Unschedulable {
			why = "cordoned: pods can leave it, not come"
		}
		row := []string{n.Name, yes(n.Labels[v1alpha1.LabelNodeReady] == "true"), yes(facts.DirtyTracking)}
		for _, v := range []string{facts.CRIU, facts.Runc, facts.Containerd, facts.Kernel, why} {
			if v == "" {
				v = "-"
			}
			row = append(row, plain(v))
		}
		fmt.Fprintln(tw, strings.Join(row, "\t"))
	}
	if err := tw.Flush(); err != nil {
		return fmt.Errorf("list nodes: %w", err)
	}
	return nil
}

// factsOf reads what the node's agent reports, and why the node is not able.
func factsOf(n *corev1.Node) (v1alpha1.NodeFacts, string) {
	var facts v1alpha1.NodeFacts
	text, ok := n.Annotations[v1alpha1.AnnotationNodeFacts]
	if !ok {
		return facts, "no agent has reported"
	}
	if err := json.Unmarshal([]byte(text), &facts); err != nil {
		return v1alpha1.NodeFacts{}, "its facts cannot be read"
	}
	if facts.NotReady == "" && n.Labels[v1alpha1.LabelNodeReady] != "true" {
		return facts, "its agent is away"
	}
	return facts, facts.NotReady
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// plain keeps control sequences away from the terminal and the table in shape.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || (r >= 0x7f && r < 0xa0) {
			return ' '
		}
		return r
	}, s)
}
