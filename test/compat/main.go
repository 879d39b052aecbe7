// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Command compat moves real software there and back, each program with a client that
// checks that nothing was lost. It runs inside a cluster; "make compat" brings one up.
//
//	compat                   the programs of the table, or those that RUN matches
//	compat render FILE...    docs/compatibility.md from results, on standard output
//	compat list              the programs
//	compat images            the images that are needed
//
// Results are kept by program: a run of some leaves the others' as they were.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/test/harness"
)

// resultFile is where the results go.
const resultFile = "artifacts/compat.json"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	if err := command(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "compat:", err)
		stop()
		os.Exit(1)
	}
}

func command(ctx context.Context, args []string) error {
	verb := ""
	if len(args) > 0 {
		verb = args[0]
	}
	switch verb {
	case "render":
		results, err := readResults(args[1:]...)
		if err != nil {
			return err
		}
		return render(os.Stdout, results)
	case "list":
		for _, p := range programs() {
			fmt.Println(p.name)
		}
		return nil
	case "images":
		list, err := chosen()
		for _, image := range images(list) {
			fmt.Println(image)
		}
		return err
	case "":
		return all(ctx)
	}
	return fmt.Errorf("unknown command %q", verb)
}

// chosen are the programs that RUN matches.
func chosen() ([]program, error) {
	pattern, err := regexp.Compile(os.Getenv("RUN"))
	if err != nil {
		return nil, fmt.Errorf("RUN: %w", err)
	}
	var list []program
	for _, p := range programs() {
		if pattern.MatchString(p.name) {
			list = append(list, p)
		}
	}
	if len(list) == 0 {
		return nil, errors.New("RUN matches no program")
	}
	return list, nil
}

// images of the programs, each once.
func images(list []program) []string {
	var names []string
	for _, p := range list {
		if !slices.Contains(names, p.image) {
			names = append(names, p.image)
		}
	}
	return names
}

func all(ctx context.Context) error {
	list, err := chosen()
	if err != nil {
		return err
	}
	config, err := harness.ConfigFromEnvironment()
	if err != nil {
		return err
	}
	h, err := harness.New(config, os.Stderr)
	if err != nil {
		return err
	}
	defer func() { _ = h.Close() }()
	if err := h.Install(ctx); err != nil {
		return err
	}
	results, err := readResults(resultFile)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	failed := 0
	for _, p := range list {
		fmt.Printf("%s …\n", p.name)
		r := run(ctx, h, p)
		fmt.Printf("%s: %s\n", p.name, r.summary())
		for _, problem := range r.Problems {
			fmt.Printf("  - %s\n", problem)
		}
		if len(r.Problems) > 0 {
			failed++
			collect(ctx, h, filepath.Join(config.Artifacts, p.name))
		}
		if err := errors.Join(removeNamespace(ctx, h), ctx.Err()); err != nil {
			return err
		}
		results = replace(results, r)
		if err := save(resultFile, results); err != nil {
			return err
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d programs were not moved, or refused, as they have to be", failed, len(list))
	}
	return nil
}
