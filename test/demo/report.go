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
	"godwit.dev/godwit/test/harness/redisload"
)

// Report is what the demonstration has seen. Durations are in nanoseconds.
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
	From  string `json:"from"`
	To    string `json:"to,omitempty"`
	// Phase it ended in.
	Phase string `json:"phase,omitempty"`
	// Total time from the Migration's creation to its end.
	Total time.Duration `json:"total"`
	// Rounds of pre-copy and the final dump, summed over the containers.
	Rounds []Dump `json:"rounds"`
	Final  *Dump  `json:"final,omitempty"`
	// Bytes that went through the shared volume.
	Bytes int64 `json:"bytes"`
	// Downtime as the agents measured it.
	Downtime Downtime `json:"downtime"`
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

// Dump is one round, or the final dump.
type Dump struct {
	Memory   int64         `json:"memoryBytes"`
	Duration time.Duration `json:"duration"`
	// Frozen is how long the processes stood still for it.
	Frozen time.Duration `json:"frozen"`
	// Dirty is what was dirtied again by its end.
	Dirty int64 `json:"dirtyBytes,omitempty"`
}

// Downtime is the time in which no process of the pod ran.
type Downtime struct {
	FreezeAndDump time.Duration `json:"freezeAndDump"`
	Handover      time.Duration `json:"handover"`
	Restore       time.Duration `json:"restore"`
	Total         time.Duration `json:"total"`
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

// fill takes what the Migration says.
func (m *Move) fill(mig *v1alpha1.Migration) {
	s := &mig.Status
	m.Phase, m.Bytes = string(s.Phase), s.BytesTransferred
	if s.CompletionTime != nil {
		m.Total = s.CompletionTime.Sub(mig.CreationTimestamp.Time)
	}
	if s.Target != nil {
		m.To = s.Target.NodeName
	}
	if d := s.Downtime; d != nil {
		m.Downtime = Downtime{d.FreezeAndDump.Duration, d.Handover.Duration, d.Restore.Duration, d.Total.Duration}
	}
	if s.Source == nil {
		return
	}
	for _, c := range s.Source.Containers {
		for i, r := range c.Rounds {
			if i == len(m.Rounds) {
				m.Rounds = append(m.Rounds, Dump{})
			}
			m.Rounds[i].add(r.DumpStatus)
			m.Rounds[i].Dirty += r.DirtyBytes
		}
		if c.FinalDump != nil {
			if m.Final == nil {
				m.Final = &Dump{}
			}
			m.Final.add(*c.FinalDump)
		}
	}
}

func (d *Dump) add(s v1alpha1.DumpStatus) {
	d.Memory += s.MemoryBytes
	d.Duration = max(d.Duration, s.Duration.Duration)
	d.Frozen = max(d.Frozen, s.Frozen.Duration)
}

// conclude decides whether all is well.
func (r *Report) conclude() {
	problem := func(format string, args ...any) { r.Problems = append(r.Problems, fmt.Sprintf(format, args...)) }
	for _, m := range r.Moves {
		if m.Phase != string(v1alpha1.PhaseSucceeded) {
			problem("%s: it ended in phase %s", m.Title, m.Phase)
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
