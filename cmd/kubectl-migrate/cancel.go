// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/spf13/cobra"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/migration"
)

func newCancel(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "cancel NAME",
		Short: "Ask for a migration to be given up; the pod stays where it is",
		Long: `Ask for a migration to be given up. Until the target has committed the pod goes
on where it is; after that it is too late, and the migration ends as it will.
The Migration stays; kubectl delete cancels it as well.`,
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
			m := &v1alpha1.Migration{}
			if err := c.Get(cmd.Context(), client.ObjectKey{Namespace: ns, Name: name}, m); err != nil {
				return fmt.Errorf("get migration: %w", err)
			}
			if migration.Finished(m.Status.Phase) {
				return fmt.Errorf("migration %s is finished already: %s", name, m.Status.Phase)
			}
			before := m.DeepCopy()
			if m.Annotations == nil {
				m.Annotations = map[string]string{}
			}
			m.Annotations[v1alpha1.AnnotationCancel] = "true"
			if err := c.Patch(cmd.Context(), m, client.MergeFrom(before)); err != nil {
				return fmt.Errorf("cancel migration: %w", err)
			}
			fmt.Fprintf(o.Out, "migration.godwit.dev/%s asked to stop\n", name)
			return nil
		},
	}
}
