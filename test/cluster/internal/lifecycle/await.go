// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"context"
	"fmt"
	"time"

	"godwit.dev/godwit/test/cluster/internal/host"
)

// pollInterval is how often a condition is looked at that cannot be watched.
const pollInterval = 100 * time.Millisecond

// await returns once condition does, and fails when limit has passed or the
// part's process has ended. The failure shows the part's log.
func (c *Cluster) await(ctx context.Context, part string, p *host.Process, limit time.Duration, condition func(context.Context) error) error {
	waiting, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		attempt, done := context.WithTimeout(waiting, 5*time.Second)
		err := condition(attempt)
		done()
		if err == nil {
			return nil
		}
		select {
		case <-p.Exited():
			return &PartError{Part: part, Log: p.Log, Err: fmt.Errorf("its process has ended")}
		case <-waiting.Done():
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return &PartError{Part: part, Log: p.Log, Err: fmt.Errorf("not ready within %s: %w", limit, err)}
		case <-tick.C:
		}
	}
}
