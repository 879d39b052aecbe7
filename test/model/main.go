// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Command model searches the model of the handover with spin: as the protocol
// is, which must show nothing, and once for every guard taken away, which must
// show a violation. docs/protocol.md explains both.
//
// It prints a table, writes artifacts/model.json, and ends with the line
// “N passed, N failed”. Its exit status is 1 when a search did not show what it
// should.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "model:", err)
		os.Exit(1)
	}
}

// entry is one search in artifacts/model.json.
type entry struct {
	Name   string   `json:"name"`
	Guards []string `json:"removedGuards,omitempty"`
	// KeepsName: of the model of a pod that keeps its name.
	KeepsName bool `json:"keepsName,omitempty"`
	Faults    int  `json:"faults"`
	outcome
	// Seconds that the search took, without compiling.
	Seconds  float64 `json:"seconds"`
	Expected string  `json:"expected"`
	Passed   bool    `json:"passed"`
}

func run(ctx context.Context) error {
	source := flag.String("model", "test/model/handover.pml", "the model")
	out := flag.String("o", "artifacts/model.json", "where to write the results")
	only := flag.String("run", "", "regular expression of the searches to make; empty for all")
	flag.Parse()
	pattern, err := regexp.Compile(*only)
	if err != nil {
		return err
	}
	path, err := filepath.Abs(*source)
	if err != nil {
		return err
	}
	wanted := slices.DeleteFunc(slices.Clone(searches), func(s variant) bool { return !pattern.MatchString(s.name) })
	entries := make([]entry, len(wanted))
	done := make([]chan struct{}, len(wanted))
	// A search uses one processor, and its memory is bounded.
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i := range wanted {
		done[i] = make(chan struct{})
	}
	go func() {
		for i, s := range wanted {
			g.Go(func() (err error) {
				defer close(done[i])
				if entries[i], err = search(ctx, path, s); err != nil {
					return fmt.Errorf("%s: %w", s.name, err)
				}
				return nil
			})
		}
	}()
	passed, failed := 0, 0
	fmt.Printf("%-58s %9s %6s %7s  %s\n", "SEARCH", "STATES", "DEPTH", "TIME", "RESULT")
	for i := range wanted {
		<-done[i]
		e := entries[i]
		verdict := "ok"
		if e.Passed {
			passed++
		} else {
			failed++
			verdict = "FAILED, expected: " + wanted[i].expected
		}
		fmt.Printf("%-58s %9d %6d %6.1fs  %s: %s\n", wanted[i].name, e.States, e.Depth, e.Seconds, e.Violation, verdict)
	}
	if err := g.Wait(); err != nil {
		return err
	}
	data, err := json.MarshalIndent(entries, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(*out), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(*out, append(data, '\n'), 0o644); err != nil {
		return err
	}
	fmt.Printf("%d passed, %d failed\n", passed, failed)
	if failed > 0 || passed == 0 {
		return errors.New("the model does not show what it should")
	}
	return nil
}

// search compiles the model without the guards and searches it. Where a guard is
// taken away the first look is at the invariants alone, since a run that breaks
// one may also not end; then at runs that do not end.
func search(ctx context.Context, model string, s variant) (entry, error) {
	dir, err := os.MkdirTemp("", "godwit-model")
	if err != nil {
		return entry{}, err
	}
	defer os.RemoveAll(dir)
	args := []string{fmt.Sprintf("-DFAULTS=%d", s.faults)}
	if s.keepsName {
		args = append(args, "-DSAMENAME")
	}
	for _, g := range s.without {
		args = append(args, "-D"+g)
	}
	if err := command(ctx, dir, "spin", append(args, "-a", model)...); err != nil {
		return entry{}, err
	}
	// No bit state hashing, no reduction: every state is stored whole.
	// Optimizing takes longer than most searches do.
	optimize := "-O2"
	if s.faults <= 2 {
		optimize = "-O1"
	}
	flags := []string{optimize, "-w", "-DNOREDUCE", "-DMEMLIM=4096"}
	if s.cycles {
		flags = append(flags, "-DNP")
	} else {
		flags = append(flags, "-DSAFETY")
	}
	if err := command(ctx, dir, "gcc", append(flags, "-o", "pan", "pan.c")...); err != nil {
		return entry{}, err
	}
	e := entry{Name: s.name, Guards: s.without, KeepsName: s.keepsName, Faults: s.faults, Expected: s.expected}
	begun := time.Now()
	looks := [][]string{{"-n", "-m100000"}}
	switch {
	case s.cycles:
		looks = [][]string{{"-n", "-m100000", "-l"}}
	case len(s.without) == 0:
		looks = [][]string{{"-m100000"}} // and says what was never reached
	case s.expected != nothing:
		looks = [][]string{{"-n", "-m100000", "-E"}, {"-n", "-m100000"}}
	}
	for _, look := range looks {
		pan := exec.CommandContext(ctx, "./pan", look...)
		pan.Dir = dir
		text, err := pan.CombinedOutput()
		if err != nil && len(text) == 0 {
			return entry{}, err
		}
		if e.outcome, err = parse(string(text)); err != nil {
			return entry{}, fmt.Errorf("%w:\n%s", err, text)
		}
		if e.Violation != nothing {
			break
		}
	}
	e.Seconds = time.Since(begun).Seconds()
	e.Passed = e.Violation == s.expected || s.expected == something && e.Violation != nothing
	return e, nil
}

func command(ctx context.Context, dir, name string, args ...string) error {
	c := exec.CommandContext(ctx, name, args...)
	c.Dir = dir
	if text, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", name, err, text)
	}
	return nil
}
