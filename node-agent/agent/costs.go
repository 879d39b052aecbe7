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

// costs remembers what switchovers from and to this node cost, in memory and in a file
// that outlives the agent. The model is the same for every other node.
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

// learn remembers what a switchover took that was confirmed. Both nodes of a migration do:
// the freeze is the source's and the restore the target's, and the next switchover from
// either has one of each. Of a pod that keeps its name it is not learned: its hand-over
// waits for the pod to be made again.
func (s *sessionBase) learn(status *v1alpha1.MigrationStatus) *v1alpha1.DowntimeStatus {
	measured := migration.Downtime(status)
	if measured == nil || status.Handoff == v1alpha1.HandoffSameName {
		return nil
	}
	if err := s.costs.learn(migration.LoadOf(&status.Source.SourceReport), *measured); err != nil {
		s.log.Error(err, "the next agent of this node begins without this")
	}
	return measured
}
