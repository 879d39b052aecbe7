// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/api/v1alpha1"
)

// removalTimeout bounds the removal of the check's Migration, which also happens
// when the user interrupts.
const removalTimeout = 10 * time.Second

func newCheck(o *options) *cobra.Command {
	r := request{dryRun: true}
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "check POD",
		Short: "Find out whether a pod could be moved, without touching it",
		Long: `Find out whether a pod could be moved: a Migration with dryRun is created, its
verdict printed, and it is removed again. Fails if the pod cannot be moved.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			pod, err := podOf(args[0])
			if err != nil {
				return err
			}
			m, err := r.migration(cmd, pod)
			if err != nil {
				return err
			}
			c, ns, err := o.connect()
			if err != nil {
				return err
			}
			m.Namespace, m.GenerateName = ns, prefix(pod, "check-")
			if err := c.Create(cmd.Context(), m); err != nil {
				return fmt.Errorf("create migration: %w", err)
			}
			defer func() { err = errors.Join(err, remove(cmd.Context(), c, m)) }()
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			if err = o.show(ctx, c, client.ObjectKeyFromObject(m)); errors.Is(err, context.DeadlineExceeded) {
				return fmt.Errorf("no verdict within %s: is the controller running, and the agent on the pod's node?", timeout)
			}
			return err
		},
	}
	r.addFlags(cmd)
	cmd.Flags().DurationVar(&timeout, "timeout", time.Minute, "how long to wait for the verdict")
	return cmd
}

// remove deletes the Migration, also after the user has interrupted.
func remove(ctx context.Context, c client.Client, m *v1alpha1.Migration) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removalTimeout)
	defer cancel()
	if err := client.IgnoreNotFound(c.Delete(ctx, m)); err != nil {
		return fmt.Errorf("remove migration %s: %w", m.Name, err)
	}
	return nil
}
