// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"godwit.dev/godwit/internal/wire"
	"godwit.dev/godwit/node-agent/runtime"
)

// sweepStanding ends containers that were restored and never let go, and whose
// Migration is gone: nobody can let them go any more.
func (s *sweeper) sweepStanding(ctx context.Context) error {
	all, err := wire.AllStanding(s.RunDir)
	if err != nil || len(all) == 0 {
		return err
	}
	known, err := s.known(ctx)
	if err != nil {
		return err
	}
	targets := targetPods(known)
	var errs []error
	for _, c := range all {
		if !targets[c.PodUID] {
			errs = append(errs, s.endStanding(ctx, &c))
		}
	}
	return errors.Join(errs...)
}

// endStanding ends one container; it is looked at again until it is seen to be gone.
func (s *sweeper) endStanding(ctx context.Context, c *wire.Standing) error {
	found, err := s.Node.Finder.Container(ctx, c.ContainerID)
	switch {
	case err == nil:
		return s.Node.Killer.Kill(ctx, found)
	case !errors.Is(err, runtime.ErrNotFound):
		return err
	}
	bundle := filepath.Join(s.BundleDir, c.ContainerID)
	if _, err := os.Lstat(bundle); err == nil {
		if err := s.Node.Killer.Discard(ctx, c.ContainerID, bundle); err != nil {
			return err
		}
	}
	if err := c.Ended(s.RunDir); err != nil {
		return err
	}
	orphansRemoved.WithLabelValues("standing").Inc()
	return nil
}
