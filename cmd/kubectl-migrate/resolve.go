// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/migration"
)

// fieldManagerPlugin is what the plugin calls itself in the managed fields.
const fieldManagerPlugin = "kubectl-migrate"

func newResolve(o *options) *cobra.Command {
	var source, target, force, yes bool
	timeout := 30 * time.Second
	cmd := &cobra.Command{
		Use:   "resolve NAME --source|--target [--force]",
		Short: "Decide which side goes on when the target was lost after the commit",
		Long: `Decide which side goes on when the target was lost after the commit.

With --source the source pod goes on and the target is given up. That is refused
unless nothing can run on the target any more: its node is tainted out-of-service,
its Node was deleted, or its pod was deleted and its agent has seen that nothing is
left. What the pod did on the target is lost.

With --target the target keeps the pod and the source pod is removed. That is
refused unless kubelet has seen the target run.

--force does it whatever is known. If the target runs after all, --source --force
makes the pod run twice until its node hears of it; if it does not, --target --force
leaves nothing of the pod.

The answer, and who asked, is kept in status.resolution and in an event.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			request := v1alpha1.ResolveSource
			switch {
			case target && force:
				request = v1alpha1.ResolveForceTarget
			case target:
				request = v1alpha1.ResolveTarget
			case force:
				request = v1alpha1.ResolveForceSource
			}
			name, err := nameOf(args[0])
			if err != nil {
				return err
			}
			c, ns, err := o.connect()
			if err != nil {
				return err
			}
			key := client.ObjectKey{Namespace: ns, Name: name}
			if err := o.askToResolve(cmd.Context(), c, key, request, force && !yes); err != nil {
				return err
			}
			return o.awaitAnswer(cmd.Context(), c, key, request, timeout)
		},
	}
	cmd.Flags().BoolVar(&source, "source", false, "The source goes on.")
	cmd.Flags().BoolVar(&target, "target", false, "The target keeps the pod; the source is removed.")
	cmd.Flags().BoolVar(&force, "force", false, "Do it whatever is known. The pod may run twice, or be lost.")
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "Do not ask before using force.")
	cmd.Flags().DurationVar(&timeout, "answer-timeout", timeout, "How long to wait for the manager's answer.")
	cmd.MarkFlagsMutuallyExclusive("source", "target")
	cmd.MarkFlagsOneRequired("source", "target")
	return cmd
}

// askToResolve shows what is known and puts the request on the Migration.
func (o *options) askToResolve(ctx context.Context, c client.Client, key client.ObjectKey, request v1alpha1.ResolveRequest, confirm bool) error {
	m := &v1alpha1.Migration{}
	if err := c.Get(ctx, key, m); err != nil {
		return fmt.Errorf("get migration: %w", err)
	}
	switch {
	case migration.Finished(m.Status.Phase):
		return fmt.Errorf("migration %s is finished already: %s", key.Name, m.Status.Phase)
	case m.Status.Handover == nil:
		return fmt.Errorf("migration %s has not committed: cancel it instead (kubectl migrate cancel %s)", key.Name, key.Name)
	case m.Annotations[v1alpha1.AnnotationResolve] != "":
		return fmt.Errorf("migration %s is asked to resolve to %s already, and has not answered yet", key.Name, m.Annotations[v1alpha1.AnnotationResolve])
	}
	fmt.Fprintln(o.Out, m.Status.Message)
	if !meta.IsStatusConditionTrue(m.Status.Conditions, v1alpha1.ConditionTargetLost) {
		fmt.Fprintln(o.Out, "The target is not known to be lost.")
	}
	if confirm {
		danger := "If the target runs after all, the pod runs twice."
		if request == v1alpha1.ResolveForceTarget {
			danger = "If the target does not run, nothing is left of the pod."
		}
		fmt.Fprintf(o.Out, "%s Type the name of the migration to go on: ", danger)
		line, err := bufio.NewReader(o.In).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("read the confirmation: %w", err)
		}
		if strings.TrimSpace(line) != key.Name {
			return errors.New("not confirmed; nothing was done")
		}
	}
	before := m.DeepCopy()
	if m.Annotations == nil {
		m.Annotations = map[string]string{}
	}
	m.Annotations[v1alpha1.AnnotationResolve] = string(request)
	// Decided on what was shown: if anything has changed since, look again.
	patch := client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
	if err := c.Patch(ctx, m, patch, client.FieldOwner(fieldManagerPlugin)); err != nil {
		return fmt.Errorf("ask to resolve: %w", err)
	}
	return nil
}

// awaitAnswer shows the manager's answer. It is the request's when the request
// was removed: that happens once it was answered.
func (o *options) awaitAnswer(ctx context.Context, c client.Client, key client.ObjectKey, request v1alpha1.ResolveRequest, timeout time.Duration) error {
	m := &v1alpha1.Migration{}
	err := wait.PollUntilContextTimeout(ctx, 200*time.Millisecond, timeout, true, func(ctx context.Context) (bool, error) {
		if err := c.Get(ctx, key, m); err != nil {
			return false, fmt.Errorf("get migration: %w", err)
		}
		return m.Status.Resolution != nil && m.Status.Resolution.Request == request &&
			(m.Annotations[v1alpha1.AnnotationResolve] == "" || migration.Finished(m.Status.Phase)), nil
	})
	if wait.Interrupted(err) {
		return fmt.Errorf("no answer within %s: is the manager running? It answers when it does; kubectl annotate mig %s %s- withdraws the request", timeout, key.Name, v1alpha1.AnnotationResolve)
	}
	if err != nil {
		return err
	}
	r := m.Status.Resolution
	if r.Outcome == v1alpha1.ResolutionRefused {
		return fmt.Errorf("refused: %s", r.Message)
	}
	fmt.Fprintf(o.Out, "migration.godwit.dev/%s resolved: %s\n", key.Name, r.Message)
	return nil
}
