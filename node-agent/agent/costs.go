// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	ctrl "sigs.k8s.io/controller-runtime"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/migration"
)

// costs remembers what switchovers from this node cost, in memory and in a file
// that outlives the agent. The model is the same for every target.
type costs struct {
	// path of the file.
	path string

	mu    sync.Mutex
	model migration.Costs
}

// newCosts reads the file. One that cannot be read is as good as none: what is
// lost is learned again.
func newCosts(runDir string) *costs {
	c := &costs{path: filepath.Join(runDir, "costs.json")}
	b, err := os.ReadFile(c.path)
	if err == nil {
		err = json.Unmarshal(b, &c.model)
	}
	if err != nil {
		c.model = migration.Costs{}
		if !errors.Is(err, fs.ErrNotExist) {
			ctrl.Log.WithName("costs").Error(err, "learning the costs of switchovers again")
		}
	}
	return c
}

// estimate returns what is known now.
func (c *costs) estimate() migration.Costs {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.model
}

// learn takes a measured downtime into account.
func (c *costs) learn(l migration.Load, measured v1alpha1.DowntimeStatus) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.model.Learn(l, measured)
	if err := writeJSON(c.path, c.model); err != nil {
		return fmt.Errorf("store the costs of switchovers: %w", err)
	}
	return nil
}

// learn remembers what a migration that has been confirmed took, and how far its
// prediction was off.
func (s *sourceSession) learn(m *v1alpha1.Migration) {
	if migration.SameName(m) {
		return // its hand-over waits for the pod to be made again
	}
	measured := migration.Downtime(&v1alpha1.MigrationStatus{
		Source: &v1alpha1.SourceStatus{SourceReport: s.report}, Target: m.Status.Target,
	})
	if measured == nil {
		return
	}
	if p := measured.Predicted; p != nil {
		downtimeOverPrediction.Observe(measured.Total.Seconds() / p.Seconds())
	}
	l := migration.Load{ResidentBytes: s.report.ResidentBytes, Containers: len(s.report.Containers), UnreadBytes: s.unreadAtFreeze, Whole: s.rounds() == 0}
	if c := s.report.Convergence; c != nil {
		l.Bandwidth = c.BandwidthBytesPerSecond
	}
	for _, c := range s.report.Containers {
		if c.FinalDump != nil {
			l.FinalBytes += c.FinalDump.MemoryBytes
		}
	}
	if err := s.costs.learn(l, *measured); err != nil {
		s.log.Error(err, "the next agent of this node begins without this")
	}
}
