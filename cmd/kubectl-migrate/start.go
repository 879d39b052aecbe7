// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/api/v1alpha1"
)

// request holds the flags that make a Migration.
type request struct {
	to, targetName, onStall, logs string
	volumes, connections          string
	maxRounds                     int32
	targetDowntime, timeout       time.Duration
	dryRun                        bool
}

func newStart(o *options) *cobra.Command {
	var r request
	var wait bool
	var output string
	cmd := &cobra.Command{
		Use:   "start POD",
		Short: "Move a running pod to another node",
		Example: `  # Let the scheduler choose the node, and watch
  kubectl migrate start redis-0 --wait

  # To a node of your choice, with a stop-and-copy instead of pre-copy
  kubectl migrate start redis-0 --to n2 --max-rounds 0`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if output != "" && output != "name" {
				return fmt.Errorf("--output must be name, not %q", output)
			}
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
			m.Namespace, m.GenerateName = ns, prefix(pod, "")
			if err := c.Create(cmd.Context(), m); err != nil {
				return fmt.Errorf("create migration: %w", err)
			}
			if output == "name" {
				fmt.Fprintf(o.Out, "migration.godwit.dev/%s\n", m.Name)
			} else {
				fmt.Fprintf(o.Out, "migration.godwit.dev/%s created\n", m.Name)
			}
			if !wait {
				return nil
			}
			return o.showUntilDone(cmd.Context(), c, client.ObjectKeyFromObject(m))
		},
	}
	r.addFlags(cmd)
	f := cmd.Flags()
	f.StringVar(&r.targetName, "target-name", "", "name of the pod on the target node (default: the pod's with a suffix)")
	f.Int32Var(&r.maxRounds, "max-rounds", 0, "most rounds of pre-copy; 0 stops and copies (default: the API's)")
	f.DurationVar(&r.targetDowntime, "target-downtime", 0, "pre-copy until the predicted downtime is at most this (default: the API's)")
	f.StringVar(&r.onStall, "on-stall", "", "Abort, StopAndCopy or Throttle, when pre-copy does not converge (default: the API's)")
	f.StringVar(&r.logs, "logs", "", "Leave or CarryOver: whether the new pod's logs go on from the old pod's (default: the API's)")
	f.StringVar(&r.connections, "connections", "", "Close or Keep: what becomes of the pod's TCP connections (default: the API's)")
	f.DurationVar(&r.timeout, "timeout", 0, "give up after this time (default: the API's)")
	f.BoolVar(&r.dryRun, "dry-run", false, "only find out whether the pod can be moved")
	f.BoolVar(&wait, "wait", false, "show the progress, and fail unless the pod was moved")
	f.StringVarP(&output, "output", "o", "", "name: print the migration's name only")
	return cmd
}

func (r *request) addFlags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&r.to, "to", "", "node to move the pod to (default: the scheduler chooses)")
	cmd.Flags().StringVar(&r.volumes, "volumes", "", "Reject or Handoff: whether ReadWriteOnce volumes follow the pod, for a longer downtime (default: the API's)")
}

// migration makes the object. Flags that were not given leave the field to the
// API's defaults.
func (r *request) migration(cmd *cobra.Command, pod string) (*v1alpha1.Migration, error) {
	m := &v1alpha1.Migration{Spec: v1alpha1.MigrationSpec{
		PodName: pod, TargetNode: r.to, TargetPodName: r.targetName, DryRun: r.dryRun,
	}}
	given := cmd.Flags().Changed
	if given("max-rounds") {
		m.Spec.PreCopy.MaxRounds = &r.maxRounds
	}
	if given("target-downtime") {
		m.Spec.PreCopy.TargetDowntime = &metav1.Duration{Duration: r.targetDowntime}
	}
	if given("timeout") {
		m.Spec.Timeout = &metav1.Duration{Duration: r.timeout}
	}
	switch p := v1alpha1.LogPolicy(r.logs); p {
	case "", v1alpha1.LogLeave, v1alpha1.LogCarryOver:
		m.Spec.LogPolicy = p
	default:
		return nil, fmt.Errorf("--logs must be %s or %s, not %q", v1alpha1.LogLeave, v1alpha1.LogCarryOver, p)
	}
	switch p := v1alpha1.VolumePolicy(r.volumes); p {
	case "", v1alpha1.VolumePolicyReject, v1alpha1.VolumePolicyHandoff:
		m.Spec.VolumePolicy = p
	default:
		return nil, fmt.Errorf("--volumes must be %s or %s, not %q", v1alpha1.VolumePolicyReject, v1alpha1.VolumePolicyHandoff, p)
	}
	switch p := v1alpha1.ConnectionPolicy(r.connections); p {
	case "", v1alpha1.ConnectionsClose, v1alpha1.ConnectionsKeep:
		m.Spec.Connections = p
	default:
		return nil, fmt.Errorf("--connections must be %s or %s, not %q", v1alpha1.ConnectionsClose, v1alpha1.ConnectionsKeep, p)
	}
	switch p := v1alpha1.OnStallPolicy(r.onStall); p {
	case "", v1alpha1.OnStallAbort, v1alpha1.OnStallStopAndCopy, v1alpha1.OnStallThrottle:
		m.Spec.PreCopy.OnStall = p
	default:
		return nil, fmt.Errorf("--on-stall must be %s, %s or %s, not %q", v1alpha1.OnStallAbort, v1alpha1.OnStallStopAndCopy, v1alpha1.OnStallThrottle, p)
	}
	return m, nil
}

// prefix is the beginning of a generated name; the server adds five characters,
// and cuts what is too long for it.
func prefix(pod, what string) string { return pod + "-" + what }
