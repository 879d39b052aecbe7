// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"godwit.dev/godwit/test/harness"
)

// unknownRounds is how many rounds are made by hand when no Migration of such a
// process has said how many are good.
const unknownRounds = 3

// roundsOf is how many rounds a Migration of such a process took.
func (b *bench) roundsOf(c cell) int {
	if n := b.rounds[c]; n > 0 {
		return n
	}
	return unknownRounds
}

// bareCRIU moves a process with CRIU alone. See [criuTimes.floor] for what counts.
type bareCRIU struct{ *bench }

func (m bareCRIU) measure(ctx context.Context, c cell, r *result) error {
	return m.byHand(ctx, c, r, func(ctx context.Context, h *hand) error { return h.bareCRIU(ctx, m.roundsOf(c), r) })
}

func (h *hand) bareCRIU(ctx context.Context, rounds int, r *result) error {
	pid, err := h.memhog(ctx)
	if err != nil {
		return err
	}
	was, err := h.ready(ctx)
	if err != nil {
		return err
	}
	return h.move(ctx, was, recipe{
		rounds: rounds, warm: true,
		dump: func(k int) string {
			if k < rounds {
				return h.chain.criuPreDump(pid, k)
			}
			return h.chain.criuDump(pid, k)
		},
		restore: h.chain.criuRestore(rounds),
	}, r)
}

// recipe says how something is moved by hand.
type recipe struct {
	rounds int
	// warm: as with Godwit, each round is read on the other node while the next is made.
	warm bool
	// dump is the command of dump k; the last one is that of number rounds.
	dump    func(k int) string
	restore string
}

// move carries a recipe out and puts what CRIU says of it into r.
func (h *hand) move(ctx context.Context, was harness.MemhogStatus, how recipe, r *result) error {
	begun := time.Now()
	took, err := h.preDump(ctx, how)
	if err != nil {
		return err
	}
	dumped, err := timed(ctx, h.source, how.dump(how.rounds))
	if err != nil {
		return fmt.Errorf("dump: %w", err)
	}
	restored, err := timed(ctx, h.target, how.restore)
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	r.TotalSeconds = time.Since(begun).Seconds()
	if err := h.arrived(ctx, was, r); err != nil {
		return err
	}
	return h.readCRIU(ctx, append(took, dumped), restored, r)
}

// preDump makes the rounds, and returns when all that are read have been.
func (h *hand) preDump(ctx context.Context, how recipe) ([]time.Duration, error) {
	finished := make(chan int, how.rounds)
	var g errgroup.Group
	g.Go(func() error {
		for k := range finished {
			if !how.warm {
				continue
			}
			if _, err := h.target.Run(ctx, h.chain.warm(k)); err != nil {
				return fmt.Errorf("read round %d: %w", k, err)
			}
		}
		return nil
	})
	took, err := h.makeRounds(ctx, how, finished)
	close(finished)
	return took, errors.Join(err, g.Wait())
}

// makeRounds makes the rounds one after the other and says which have finished, and how
// long each took.
func (h *hand) makeRounds(ctx context.Context, how recipe, finished chan<- int) ([]time.Duration, error) {
	var took []time.Duration
	for k := range how.rounds {
		d, err := timed(ctx, h.source, how.dump(k))
		if err != nil {
			return took, fmt.Errorf("round %d: %w", k, err)
		}
		took = append(took, d)
		finished <- k
	}
	return took, nil
}

// readCRIU reads what CRIU says of the dumps, which took that long each, the last one
// at the end, and of the restore.
func (h *hand) readCRIU(ctx context.Context, took []time.Duration, restored time.Duration, r *result) error {
	out, err := h.source.Run(ctx, fmt.Sprintf(statsScript, handWork))
	if err != nil {
		return err
	}
	dumps, err := parseStats(out)
	if err != nil {
		return err
	}
	last := len(took) - 1
	for k, d := range took {
		s := dumps[fmt.Sprintf("%d/stats-dump", k)]
		if s == nil {
			return fmt.Errorf("CRIU has left no statistics of dump %d", k)
		}
		one := dumpFrom(s, d)
		if k < last {
			r.Rounds = append(r.Rounds, one)
		} else {
			r.Final = &one
		}
	}
	if out, err = h.target.Run(ctx, fmt.Sprintf(statsScript, handWork)); err != nil {
		return err
	}
	restores, err := parseStats(out)
	if err != nil {
		return err
	}
	s := restores[fmt.Sprintf("%d/stats-restore", last)]
	if s == nil {
		return errors.New("CRIU has left no statistics of the restore")
	}
	r.CRIU = timesFrom(dumps[fmt.Sprintf("%d/stats-dump", last)], s)
	r.CRIU.DumpCommandSeconds, r.CRIU.RestoreCommandSeconds = took[last].Seconds(), restored.Seconds()
	r.BytesWritten, err = written(ctx, h.source, h.chain.images)
	return err
}
