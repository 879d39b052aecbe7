// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Command bench measures how long a process stands still when it is moved to another
// node: by Godwit, by a stop-and-copy, by bare CRIU, which nothing built on it can be
// faster than, and by others. It runs inside a cluster; "make bench" brings one up.
//
//	bench                          measures, into artifacts/bench.json
//	bench render [-o DIR] FILE...  DIR/benchmarks.md and its pictures, from results
//	bench trace [-o FILE] FILE...  what the engine was given and what came of it, for the
//	                               tests of internal/migration, from results
//	bench plan                     what would be measured, and about how long it takes
//
// The environment says what is measured:
//
//	SIZES     memory in MiB                           64,256,1024
//	RATES     percent of the memory written a second  0,1,10
//	PATTERNS  uniform, hot (5 % of it), sequential    uniform,hot
//	REPS      repetitions of everything               5
//	METHODS   see methods.go                          all
//	GRID      cross or full                           cross
//	RUN       regular expression of "CELL/METHOD"     everything
//	QUICK=1   64 and 256 MiB, 1 %, uniform, twice, without the peers and the cost
//
// The full grid of the presets takes many hours on emulated nodes, the cross more than
// an hour and a half; "bench plan" says how long anything else does. The cross has the
// cells that differ from its middle (256 MiB, 1 %, uniform) in one thing, and leaves out
// what does not depend on it: stop-and-copy is measured in one cell of each size,
// rescheduling and the floor of containers up to the middle one, and what else is driven
// by hand, and the cost, in the middle.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"

	"golang.org/x/sys/unix"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	err := command(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
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
		return renderFiles(args[1:])
	case "trace":
		return traceFile(args[1:])
	case "plan":
		steps, err := chosen()
		tellPlan(os.Stdout, steps)
		return err
	case "":
		return all(ctx)
	}
	return fmt.Errorf("unknown verb %q", verb)
}

// chosen are the steps that the environment asks for.
func chosen() ([]step, error) {
	p, err := readParams(os.Getenv)
	if err != nil {
		return nil, err
	}
	steps := plan(p)
	if len(steps) == 0 {
		return nil, errors.New("nothing is to be measured: look at METHODS, GRID and RUN")
	}
	return steps, nil
}

func tellPlan(w io.Writer, steps []step) {
	for _, s := range steps {
		fmt.Fprintf(w, "%d %s\n", s.rep, s.name())
	}
	fmt.Fprintf(w, "%d measurements, about %.0f minutes on emulated nodes\n", len(steps), minutes(steps))
}

// all carries the steps out, one after the other. It goes on after a failure, which is
// one of the whole only if it is ours.
func all(ctx context.Context) error {
	steps, err := chosen()
	if err != nil {
		return err
	}
	b, err := open(ctx, os.Stderr, steps)
	if b != nil {
		defer func() { _ = b.Close() }()
	}
	if err != nil {
		return err
	}
	b.say("%d measurements, about %.0f minutes", len(steps), minutes(steps))
	// Beside the directory of the cluster's logs.
	st := &store{file: filepath.Join(filepath.Dir(b.Artifacts), "bench.json")}
	for i, s := range steps {
		r := b.measure(ctx, s)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := st.add(r); err != nil {
			return err
		}
		b.tell(i+1, len(steps), s, &r)
		if r.Error == "" {
			continue
		}
		if err := b.restart(ctx, s); err != nil {
			return err
		}
	}
	if !b.Keep {
		if err := b.RemoveNamespace(ctx, namespace); err != nil {
			return err
		}
	}
	if n := st.failed(precopy); n > 0 {
		return fmt.Errorf("%d migrations failed", n)
	}
	return nil
}

// tell prints how a measurement went.
func (b *bench) tell(n, of int, s step, r *result) {
	if r.Error != "" {
		b.say("%d/%d #%d %s: FAILED after %.0f s: %s", n, of, s.rep, s.name(), r.Seconds, r.Error)
		return
	}
	text := fmt.Sprintf("down %.2f s", downtime(r))
	if r.Cost != nil {
		text = fmt.Sprintf("%.0f requests/s before, %.0f in rounds, %.0f between, %.0f after",
			r.Cost.Before.PerSecond, r.Cost.InRound.PerSecond, r.Cost.Between.PerSecond, r.Cost.After.PerSecond)
	}
	if r.ClientGapSeconds > 0 && r.ProcessGapSeconds > 0 {
		text += fmt.Sprintf(" (client %.2f s)", r.ClientGapSeconds)
	}
	if f := frozenForDump(r); f > 0 {
		text += fmt.Sprintf(", dump %.2f s, restore %.2f s, %d rounds", f, restoreTime(r), len(r.Rounds))
	}
	if e, ok := predictionError(r); ok {
		text += fmt.Sprintf(", predicted within %.0f %%", 100*e)
	}
	b.say("%d/%d #%d %s: %s; %.0f s in all", n, of, s.rep, s.name(), text, r.Seconds)
}

// renderFiles writes the page and its pictures.
func renderFiles(args []string) error {
	flags := flag.NewFlagSet("render", flag.ContinueOnError)
	dir := flags.String("o", "docs", "directory for the page")
	if err := flags.Parse(args); err != nil {
		return err
	}
	rs, err := readResults(flags.Args()...)
	if err != nil {
		return err
	}
	for name, content := range pages(rs) {
		file := filepath.Join(*dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}
