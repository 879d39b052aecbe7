// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// What became of the memory of what was moved.
const (
	memoryKept = "kept"
	memoryLost = "lost"
)

// result is one object of artifacts/bench.json: one measurement. A number that was
// not measured is left out; none of them can be 0.
type result struct {
	// Run is when the run began, and names it: ratios are taken within one.
	Run    string `json:"run"`
	Method string `json:"method"`
	cell
	// Rep counts from 1; 0 warms up and counts for nothing.
	Rep int       `json:"rep"`
	At  time.Time `json:"at"`
	// Seconds the whole measurement took, with its preparation and checks.
	Seconds float64 `json:"seconds"`
	From    string  `json:"from,omitempty"`
	To      string  `json:"to,omitempty"`
	// Error is why it failed, with whatever was measured until then.
	Error string `json:"error,omitempty"`

	// TotalSeconds from the order to move until it was carried out.
	TotalSeconds float64 `json:"totalSeconds,omitempty"`
	// ProcessGapSeconds is the longest time in which the process did not run, by the
	// wall clocks of both nodes; MonotonicGapSeconds the same by the process's
	// monotonic clock, which CRIU lets stand still between dump and restore.
	ProcessGapSeconds   float64 `json:"processGapSeconds,omitempty"`
	MonotonicGapSeconds float64 `json:"monotonicGapSeconds,omitempty"`
	// ClientGapSeconds is the longest time without an answer for a client that asks
	// through the Service, and ClientFailures how many of its requests failed.
	ClientGapSeconds float64 `json:"clientGapSeconds,omitempty"`
	ClientFailures   int     `json:"clientFailures,omitempty"`
	// Memory says whether the process has its memory still, Checksum covers it.
	Memory   string `json:"memory,omitempty"`
	Checksum string `json:"checksum,omitempty"`

	// ResidentBytes before, BytesWritten by all rounds and the last dump.
	ResidentBytes int64 `json:"residentBytes,omitempty"`
	BytesWritten  int64 `json:"bytesWritten,omitempty"`
	// Rounds while the process ran, and the last dump, for which it stood still.
	Rounds []dump `json:"rounds,omitempty"`
	Final  *dump  `json:"finalDump,omitempty"`
	// Reported is status.downtime of a Migration, Decision the rule by which it
	// ended the rounds, and Spans are the parts of the switchover.
	Reported *reported `json:"reported,omitempty"`
	Decision string    `json:"decision,omitempty"`
	Spans    []span    `json:"spans,omitempty"`
	// CRIU is what was measured of a move by hand.
	CRIU *criuTimes `json:"criu,omitempty"`
	// Cost is what was measured of a migration besides the downtime.
	Cost *cost `json:"cost,omitempty"`
}

// dump is one dump of memory.
type dump struct {
	Seconds float64 `json:"seconds"`
	// FrozenSeconds is how long the process stood still for it.
	FrozenSeconds float64 `json:"frozenSeconds"`
	MemoryBytes   int64   `json:"memoryBytes"`
	// Bytes with everything else that was written.
	Bytes int64 `json:"bytes,omitempty"`
	// DirtyBytes at its end, and what the downtime would have been then.
	DirtyBytes       int64   `json:"dirtyBytes,omitempty"`
	PredictedSeconds float64 `json:"predictedSeconds,omitempty"`
}

// reported is status.downtime.
type reported struct {
	TotalSeconds         float64 `json:"totalSeconds"`
	FreezeAndDumpSeconds float64 `json:"freezeAndDumpSeconds"`
	HandoverSeconds      float64 `json:"handoverSeconds"`
	RestoreSeconds       float64 `json:"restoreSeconds"`
	PredictedSeconds     float64 `json:"predictedSeconds,omitempty"`
}

// criuTimes are CRIU's own figures of the last dump and of the restore, and how long
// the commands took in all.
type criuTimes struct {
	FreezingSeconds float64 `json:"freezingSeconds"`
	FrozenSeconds   float64 `json:"frozenSeconds"`
	MemdumpSeconds  float64 `json:"memdumpSeconds"`
	MemwriteSeconds float64 `json:"memwriteSeconds"`
	RestoreSeconds  float64 `json:"restoreSeconds"`
	ForkingSeconds  float64 `json:"forkingSeconds"`
	PagesRestored   int64   `json:"pagesRestored,omitempty"`

	DumpCommandSeconds    float64 `json:"dumpCommandSeconds,omitempty"`
	RestoreCommandSeconds float64 `json:"restoreCommandSeconds,omitempty"`
}

// floor is what no tool can be faster than: the time the last dump held the process,
// and the restore.
func (c *criuTimes) floor() float64 { return c.FreezingSeconds + c.FrozenSeconds + c.RestoreSeconds }

// span is a part of a switchover.
type span struct {
	// Lane is "source", "between" or "target".
	Lane string `json:"lane"`
	Name string `json:"name"`
	// From and To are seconds since the freeze.
	From float64 `json:"from"`
	To   float64 `json:"to"`
}

// ok says that the measurement counts.
func (r *result) ok() bool { return r.Error == "" && r.Rep > 0 }

// store keeps results in a file, which holds the whole array whenever it is there.
type store struct {
	file string
	all  []result
}

func (s *store) add(r result) error {
	s.all = append(s.all, r)
	data, err := json.MarshalIndent(s.all, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(s.file), 0o755); err != nil {
		return err
	}
	part := s.file + ".part"
	if err := os.WriteFile(part, append(data, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(part, s.file)
}

// failed counts the repetitions of a method that failed, those of warming up too.
func (s *store) failed(method string) int {
	n := 0
	for i := range s.all {
		if s.all[i].Method == method && s.all[i].Error != "" {
			n++
		}
	}
	return n
}

// readResults reads arrays of results, of one run or of several.
func readResults(files ...string) ([]result, error) {
	var all []result
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		var some []result
		if err := json.Unmarshal(data, &some); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		all = append(all, some...)
	}
	return all, nil
}
