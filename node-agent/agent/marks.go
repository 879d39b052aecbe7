// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// marksInterval is how often marks of pods that are gone are removed. They are
// empty files; only their number matters, and that only in the long run.
const marksInterval = time.Hour

// SweepMarks removes the marks of restored containers (see consumed) whose pods
// are no longer on the node, now and then until ctx ends. It implements
// manager.RunnableFunc.
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
	dir := filepath.Join(a.RunDir, "restored")
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || len(entries) == 0 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read marks: %w", err)
	}
	// The API server itself: a cache that is behind would take a live pod's mark.
	var pods corev1.PodList
	if err := a.Live.List(ctx, &pods, client.MatchingFields{"spec.nodeName": a.NodeName}); err != nil {
		return fmt.Errorf("list the node's pods: %w", err)
	}
	alive := map[string]bool{}
	for i := range pods.Items {
		alive[string(pods.Items[i].UID)] = true
	}
	for _, e := range entries {
		if alive[e.Name()] {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("remove mark: %w", err)
		}
	}
	return nil
}
