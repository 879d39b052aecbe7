// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/progress"
	"godwit.dev/godwit/test/harness/redisload"
)

// Report is what the demonstration has seen. Durations are in nanoseconds
// unless they have a unit.
type Report struct {
	// OK says that nothing was lost, that the same process goes on, and that
	// the comparison, if there is one, came out as it has to.
	OK       bool     `json:"ok"`
	Problems []string `json:"problems,omitempty"`
	// DataBytes in the database before the move.
	DataBytes int64 `json:"dataBytes"`
	// Process and keys before the move.
	Process redisload.Identity `json:"process"`
	Before  redisload.Report   `json:"before"`
	Moves   []Move             `json:"moves"`
	// Comparison of both moves, with COMPARE=1.
	Comparison *Comparison `json:"comparison,omitempty"`
	// Seconds the demonstration took, without bringing up the cluster.
	Seconds float64 `json:"seconds"`
}

// Move is one migration.
type Move struct {
	Title string `json:"title"`
	// Migration is what the Migration's status says.
	Migration progress.Summary `json:"migration"`
	// Client is what the client has seen.
	Client ClientReport `json:"client"`
	// Restarts of the pod's container.
	Restarts int32 `json:"restarts"`
	// Process after the move, and whether it is the one from before.
	Process     redisload.Identity `json:"process"`
	SameProcess bool               `json:"sameProcess"`
	// After is the state of the keys after the move.
	After redisload.Report `json:"after"`
}

// downtime that the agents measured, 0 when the move did not come that far.
func (m Move) downtime() time.Duration {
	if m.Migration.Downtime == nil {
		return 0
	}
	return m.Migration.Downtime.Total.Duration
}

// frozen is how long the pod stood still for the final dump.
func (m Move) frozen() time.Duration {
	if m.Migration.Final == nil {
		return 0
	}
	return m.Migration.Final.Frozen.Duration
}

// ClientReport is what a client of the database has seen during a move.
type ClientReport struct {
	Writes int `json:"acknowledgedWrites"`
	Reads  int `json:"reads"`
	// Errors are attempts that failed and were repeated.
	Errors int `json:"failedAttempts"`
	// LongestGap between two operations that succeeded.
	LongestGap time.Duration `json:"longestGap"`
	// Wrong reads saw something else than what was acknowledged.
	Wrong []string `json:"wrongReads,omitempty"`
}

func clientReport(s redisload.Stats) ClientReport {
	r := ClientReport{Writes: s.Writes, Reads: s.Reads, Errors: s.Errors, LongestGap: s.Longest.Length()}
	for _, l := range s.Losses {
		r.Wrong = append(r.Wrong, l.String())
	}
	return r
}

// conclude decides whether all is well.
func (r *Report) conclude() {
	problem := func(format string, args ...any) { r.Problems = append(r.Problems, fmt.Sprintf(format, args...)) }
	for _, m := range r.Moves {
		if p := m.Migration.Phase; p != v1alpha1.PhaseSucceeded {
			problem("%s: it ended in phase %s", m.Title, p)
		}
		if m.After.Keys == 0 {
			problem("%s: the keys were not checked afterwards", m.Title)
		}
		if !m.After.OK() {
			problem("%s: %d acknowledged writes are lost, %d keys are surplus", m.Title, m.After.Lost, m.After.Surplus)
		}
		if n := len(m.Client.Wrong); n > 0 {
			problem("%s: %d reads saw something wrong", m.Title, n)
		}
		if m.Restarts != 0 {
			problem("%s: the container was restarted %d times", m.Title, m.Restarts)
		}
		if !m.SameProcess {
			problem("%s: another process answers than before", m.Title)
		}
	}
	if len(r.Moves) == 0 {
		problem("nothing was moved")
	}
	if c := r.Comparison; c != nil {
		r.Problems = append(r.Problems, c.Problems()...)
	}
	r.OK = len(r.Problems) == 0
}

// save writes the report as JSON.
func (r *Report) save(path string) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}
