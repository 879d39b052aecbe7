// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/migration"
	"godwit.dev/godwit/internal/wire"
)

// marksInterval is how often marks of pods that are gone are removed. They are
// empty files; only their number matters, and that only in the long run.
const marksInterval = time.Hour

// SweepMarks removes the marks of restored containers and the holds of creates
// (see wire.Hold) whose pods are no longer on the node, now and then until ctx ends.
// Those of a Migration's target stay until it is over: they say whether it has run. It
// implements manager.RunnableFunc.
func (a *Agent) SweepMarks(ctx context.Context) error {
	for {
		if err := a.sweepMarks(ctx); err != nil && ctx.Err() == nil {
			ctrl.Log.WithName("marks").Error(err, "sweep")
		}
		t := time.NewTimer(marksInterval)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-t.C:
		}
	}
}

func (a *Agent) sweepMarks(ctx context.Context) error {
	pods, err := wire.Pods(a.RunDir)
	if err != nil || len(pods) == 0 {
		return err
	}
	// The API server itself: a cache that is behind would take a live pod's mark.
	var list corev1.PodList
	if err := a.Live.List(ctx, &list, client.MatchingFields{"spec.nodeName": a.NodeName}); err != nil {
		return fmt.Errorf("list the node's pods: %w", err)
	}
	alive := map[string]bool{}
	for i := range list.Items {
		alive[string(list.Items[i].UID)] = true
	}
	needed, err := a.targetsOfMigrations(ctx)
	if err != nil {
		return err
	}
	for _, uid := range pods {
		if alive[uid] || needed[uid] {
			continue
		}
		// A create that still waits finds out by itself; next time, then.
		if err := wire.RemovePod(a.RunDir, uid); err != nil && !errors.Is(err, wire.ErrHeld) {
			return err
		}
	}
	return nil
}

// targetsOfMigrations are the UIDs of the target pods of all Migrations that are not over.
func (a *Agent) targetsOfMigrations(ctx context.Context) (map[string]bool, error) {
	var list v1alpha1.MigrationList
	if err := a.Live.List(ctx, &list); err != nil {
		return nil, fmt.Errorf("list the Migrations: %w", err)
	}
	uids := map[string]bool{}
	for i := range list.Items {
		if t := list.Items[i].Status.Target; t != nil && !migration.Finished(list.Items[i].Status.Phase) {
			uids[string(t.PodUID)] = true
		}
	}
	return uids, nil
}
