// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"slices"
	"time"
)

// trace is what the engine was given in one migration, and what came of it. The tests
// of internal/migration replay them.
type trace struct {
	Cell string `json:"cell"`
	// From is the node that moved it, by whose experience the downtime was predicted.
	From          string        `json:"from"`
	ResidentBytes int64         `json:"residentBytes"`
	Rounds        []tracedRound `json:"rounds"`
	// FinalBytes of memory in the last dump, and the downtime.
	FinalBytes    int64         `json:"finalBytes"`
	FreezeAndDump time.Duration `json:"freezeAndDump"`
	Handover      time.Duration `json:"handover"`
	Restore       time.Duration `json:"restore"`
	Predicted     time.Duration `json:"predicted,omitempty"`
	Decision      string        `json:"decision"`
}

type tracedRound struct {
	Bytes    int64         `json:"bytes"`
	Duration time.Duration `json:"duration"`
	// DirtyBytes at its end.
	DirtyBytes int64 `json:"dirtyBytes"`
}

// traces are the migrations of a run in their order, those that warm the nodes up
// included: the nodes have learned from them.
func traces(rs results) []trace {
	var all []trace
	ordered := slices.Clone(rs)
	slices.SortStableFunc(ordered, func(a, b result) int { return a.At.Compare(b.At) })
	for _, r := range ordered {
		if r.Error != "" || r.Reported == nil || r.Final == nil || r.Method != precopy && r.Method != stopAndCopy {
			continue
		}
		t := trace{
			Cell: r.name() + "/" + r.Method, From: r.From, ResidentBytes: r.ResidentBytes, FinalBytes: r.Final.MemoryBytes, Decision: r.Decision,
			FreezeAndDump: milliseconds(r.Reported.FreezeAndDumpSeconds), Handover: milliseconds(r.Reported.HandoverSeconds),
			Restore: milliseconds(r.Reported.RestoreSeconds), Predicted: milliseconds(r.Reported.PredictedSeconds), Rounds: []tracedRound{},
		}
		for _, d := range r.Rounds {
			t.Rounds = append(t.Rounds, tracedRound{Bytes: d.MemoryBytes, Duration: milliseconds(d.Seconds), DirtyBytes: d.DirtyBytes})
		}
		all = append(all, t)
	}
	return all
}

// milliseconds is a number of seconds, to a millisecond.
func milliseconds(seconds float64) time.Duration {
	return time.Duration(seconds * float64(time.Second)).Round(time.Millisecond)
}

// traceFile writes the traces of results.
func traceFile(args []string) error {
	flags := flag.NewFlagSet("trace", flag.ContinueOnError)
	out := flags.String("o", "internal/migration/testdata/switchovers.json", "file to write")
	if err := flags.Parse(args); err != nil {
		return err
	}
	rs, err := readResults(flags.Args()...)
	if err != nil {
		return err
	}
	all := traces(rs)
	if len(all) == 0 {
		return fmt.Errorf("there is no migration in %v", flags.Args())
	}
	b, err := json.MarshalIndent(all, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(*out, append(b, '\n'), 0o644)
}
