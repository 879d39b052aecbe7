// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Command chaos migrates a pod again and again, breaks one thing at one step
// each time, and judges whether the process in the pod went on: alone, without a
// number lost or repeated, and with nothing left behind. It runs inside a
// cluster; "make chaos" brings one up.
//
//	chaos                      the runs of the table, or those that RUN matches
//	chaos render FILE...       docs/reliability.md from results, on standard output
//	chaos list                 the runs
//
// CHAOS=quick takes the short table, CHAOS=owners the part about pods of workload
// controllers, CHAOS=bare the rest. SEED chooses all that is left to chance.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	if err := command(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
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
		all, err := chosen()
		for _, p := range all {
			fmt.Println(p.name())
		}
		return err
	case "":
		return all(ctx)
	}
	return fmt.Errorf("unknown verb %q", verb)
}

func seed() (uint64, error) {
	v := os.Getenv("SEED")
	if v == "" {
		return 1, nil
	}
	return strconv.ParseUint(v, 10, 64)
}

// chosen are the runs that the environment asks for.
func chosen() ([]plan, error) {
	s, err := seed()
	if err != nil {
		return nil, err
	}
	var filter *regexp.Regexp
	if v := os.Getenv("RUN"); v != "" {
		if filter, err = regexp.Compile(v); err != nil {
			return nil, err
		}
	}
	part := os.Getenv("CHAOS")
	rows := map[string][]row{"": table, "quick": table, "owners": owners, "bare": barePods}[part]
	if rows == nil {
		return nil, fmt.Errorf("there is no part %q of the table", part)
	}
	plans := plans(rows, part == "quick", filter, s)
	if len(plans) == 0 {
		return nil, errors.New("no run matches RUN")
	}
	return plans, nil
}

// all plays the chosen runs one after the other.
func all(ctx context.Context) error {
	plans, err := chosen()
	if err != nil {
		return err
	}
	s, err := seed()
	if err != nil {
		return err
	}
	c, err := open(ctx, os.Stderr, s)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	// Beside the directory of the cluster's logs.
	base := filepath.Dir(c.Artifacts)
	st, err := newStore(filepath.Join(base, "chaos.json"), filepath.Join(base, "chaos.jsonl"))
	if err != nil {
		return err
	}
	for i, p := range plans {
		if c.TooLate() {
			if err := st.add(result{ // counted, and in no table
				Run: p.name(), Workload: string(p.of), Fault: p.fault, Step: p.step.name, Seed: p.seed, Skipped: true,
			}); err != nil {
				return err
			}
			c.say("%d/%d not begun, it is too late: %s", i+1, len(plans), p.name())
			continue
		}
		begun := time.Now()
		if i == 0 || p.of != plans[i-1].of {
			if err := c.startWorkload(ctx, p.of); err != nil {
				return err
			}
		}
		r := c.play(ctx, p)
		if ctx.Err() != nil {
			break
		}
		if err := st.add(r); err != nil {
			return err
		}
		c.tell(i+1, len(plans), r, time.Since(begun))
		if r.Passed {
			continue
		}
		dir := filepath.Join(c.Artifacts, fmt.Sprintf("%03d-%s", i+1, filepath.Base(p.fault)))
		if err := c.Collect(ctx, c.namespace, dir); err != nil {
			c.say("collect logs: %v", err)
		}
		c.say("  logs are in %s", dir)
		if err := c.repair(ctx, p.of); err != nil {
			return fmt.Errorf("repair the cluster after %s: %w", r.Run, err)
		}
	}
	passed, failed, skipped := st.counts()
	fmt.Printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped)
	if failed > 0 {
		return fmt.Errorf("%d runs failed", failed)
	}
	return ctx.Err()
}

// tell prints a run's outcome.
func (c *campaign) tell(n, of int, r result, took time.Duration) {
	verdict := "ok"
	if !r.Passed {
		verdict = "FAILED"
	}
	c.say("%d/%d %s %s: %s (%s), silent %.1f s, recovered after %.1f s, %.0f s in all",
		n, of, verdict, r.Run, r.Outcome, r.Phase, float64(r.FrozenMS)/1000, float64(r.RecoverMS)/1000, took.Seconds())
	for _, p := range r.Problems {
		c.say("    %s", p)
	}
}
