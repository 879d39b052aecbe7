// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/migration"
)

// What a switchover has cost is known to both of its nodes, once each, also after their
// agents have restarted.
func TestBothNodesLearnWhatASwitchoverCosts(t *testing.T) {
	c := newCluster(t)
	c.startPod("app")
	pod := "app"
	for seen := 1; seen <= 2; seen++ {
		m := c.migrate(pod)
		c.awaitPhase(m, v1alpha1.PhaseSucceeded)
		for _, short := range []string{"n1", "n2"} {
			path, costs := filepath.Join(c.node(short).dir(), "costs.json"), migration.Costs{}
			c.eventually(short+" has learned", func() bool {
				b, err := os.ReadFile(path)
				return err == nil && json.Unmarshal(b, &costs) == nil && costs.Restore.Seen >= seen
			}, m)
			if costs.Restore.Seen != seen || costs.FreezeAndDump.Seen != seen || costs.Bandwidth == 0 {
				t.Errorf("%s after %d: %+v", short, seen, costs)
			}
			c.restartAgent(short)
		}
		pod = m.Status.Target.PodName
	}
}
