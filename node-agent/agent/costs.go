// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"sync"
	"time"

	"godwit.dev/godwit/api/v1alpha1"
)

// defaultFixedCost is assumed for a node's first migration: on ordinary
// hardware freezing, the non-memory part of the dump, the commit and the fixed
// part of the restore take a few hundred milliseconds.
const defaultFixedCost = 500 * time.Millisecond

// costs remembers what switchovers of this node cost apart from memory.
type costs struct {
	mu    sync.Mutex
	fixed time.Duration
}

// estimate returns the fixed cost of a switchover and the restore bandwidth in
// bytes per second (0 while unknown).
func (c *costs) estimate() (time.Duration, int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fixed == 0 {
		return defaultFixedCost, 0
	}
	return c.fixed, 0
}

// learn takes a measured downtime into account, half old and half new.
func (c *costs) learn(measured time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fixed == 0 {
		c.fixed = measured
		return
	}
	c.fixed = (c.fixed + measured) / 2
}

// learn derives the fixed cost from a migration that has been confirmed: its
// downtime less what its final memory should have taken at the bandwidth seen.
func (s *sourceSession) learn(m *v1alpha1.Migration) {
	t := m.Status.Target
	if s.report.FrozenAt == nil || t == nil || t.RestoredAt == nil {
		return
	}
	downtime := t.RestoredAt.Sub(s.report.FrozenAt.Time)
	if b := s.convergence.Bandwidth; b > 0 {
		var memory int64
		for _, c := range s.report.Containers {
			if c.FinalDump != nil {
				memory += c.FinalDump.MemoryBytes
			}
		}
		downtime -= time.Duration(float64(memory) / float64(b) * float64(time.Second))
	}
	if downtime > 0 {
		s.costs.learn(downtime)
	}
}
