// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/progress"
)

// Result is what was seen of one program. Durations are in nanoseconds.
type Result struct {
	Name     string    `json:"name"`
	Title    string    `json:"title"`
	Version  string    `json:"version"`
	Has      string    `json:"has"`
	Setting  string    `json:"setting,omitempty"`
	Measured time.Time `json:"measured"`
	Moves    []Move    `json:"moves,omitempty"`
	// WantRefused is the reason that it has to be refused for, Refused the one that it
	// was refused for, with the message for the user.
	WantRefused string `json:"wantRefused,omitempty"`
	Refused     string `json:"refused,omitempty"`
	Message     string `json:"message,omitempty"`
	// Problems is everything that was not as it has to be.
	Problems []string `json:"problems,omitempty"`
}

// Move is one migration.
type Move struct {
	Way       string           `json:"way"`
	Migration progress.Summary `json:"migration"`
	// Writes and reads of the client that succeeded while it was moved.
	Writes int `json:"writes"`
	Reads  int `json:"reads"`
	// Gap is the longest time without an operation that succeeded.
	Gap time.Duration `json:"gap"`
	// Told is the longest time that a client without patience waited for an answer on
	// a connection that was gone, until it learned that.
	Told time.Duration `json:"told"`
	// Keys that were compared, and those that were not as they have to be.
	Keys int `json:"keys"`
	Lost int `json:"lost"`
}

// downtime that the agents have measured.
func (m Move) downtime() time.Duration {
	if m.Migration.Downtime == nil {
		return 0
	}
	return m.Migration.Downtime.Total.Duration
}

func (r *Result) noteFailure(m *v1alpha1.Migration) {
	if f := m.Status.Failure; f != nil {
		r.Refused, r.Message = f.Reason, f.Message
	}
}

// ok says that all is as it has to be.
func (r Result) ok() bool {
	moved := len(r.Moves) == 2 && r.WantRefused == ""
	refused := r.WantRefused != "" && r.Refused == r.WantRefused
	return len(r.Problems) == 0 && (moved || refused)
}

func (r Result) summary() string {
	switch {
	case !r.ok():
		return "FAILED"
	case r.Refused != "":
		return "refused: " + r.Refused
	}
	return fmt.Sprintf("moved there and back; downtime %s and %s, nothing lost",
		progress.Duration(r.Moves[0].downtime()), progress.Duration(r.Moves[1].downtime()))
}

// replace puts a result in the place of the one of that name.
func replace(results []Result, r Result) []Result {
	if i := slices.IndexFunc(results, func(o Result) bool { return o.Name == r.Name }); i >= 0 {
		results[i] = r
		return results
	}
	return append(results, r)
}

// readResults reads files of results; what a later one has replaces what an earlier has.
func readResults(files ...string) ([]Result, error) {
	var all []Result
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		var results []Result
		if err := json.Unmarshal(b, &results); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		for _, r := range results {
			all = replace(all, r)
		}
	}
	return all, nil
}

func save(file string, results []Result) error {
	b, err := json.MarshalIndent(results, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, append(b, '\n'), 0o644)
}
