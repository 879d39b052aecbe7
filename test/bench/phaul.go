// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
)

// phaulLibrary moves a process with go-criu's phaul; see the program in phaul/.
type phaulLibrary struct{ *bench }

func (m phaulLibrary) measure(ctx context.Context, c cell, r *result) error {
	return m.byHand(ctx, c, r, func(ctx context.Context, h *hand) error { return h.phaul(ctx, r) })
}

func (h *hand) phaul(ctx context.Context, r *result) error {
	pid, err := h.memhog(ctx)
	if err != nil {
		return err
	}
	was, err := h.ready(ctx)
	if err != nil {
		return err
	}
	begun := time.Now()
	var g errgroup.Group
	g.Go(func() error {
		_, err := h.target.Run(ctx, explain("timeout 300 "+handDir+"/phaul serve -listen :"+phaulPort+" -dir "+handPages+"/remote", handPages+"/remote/*/*.log"))
		return err
	})
	_, err = h.source.Run(ctx, explain(fmt.Sprintf("%s/phaul migrate -to %s:%s -pid %s -dir %s/local", handDir, h.to.IP, phaulPort, pid, handPages), handPages+"/local/*/*.log"))
	if err = errors.Join(err, g.Wait()); err != nil {
		return fmt.Errorf("phaul: %w", err)
	}
	r.TotalSeconds = time.Since(begun).Seconds()
	if err := h.arrived(ctx, was, r); err != nil {
		return err
	}
	return h.readPhaul(ctx, r)
}

// readPhaul reads CRIU's statistics from phaul's directories. The time for which the
// last dump held the process has the restore in it.
func (h *hand) readPhaul(ctx context.Context, r *result) error {
	out, err := h.source.Run(ctx, fmt.Sprintf(statsScript, handPages+"/local"))
	if err != nil {
		return err
	}
	dumps, err := parseStats(out)
	if err != nil {
		return err
	}
	for k := 0; dumps[fmt.Sprintf("%d/stats-dump", k)] != nil; k++ {
		r.Rounds = append(r.Rounds, dumpFrom(dumps[fmt.Sprintf("%d/stats-dump", k)], 0))
	}
	last := dumps["final/stats-dump"]
	if last == nil || len(r.Rounds) == 0 {
		return errors.New("CRIU has left no statistics of the dumps")
	}
	final := dumpFrom(last, 0)
	r.Final = &final
	if out, err = h.target.Run(ctx, fmt.Sprintf(statsScript, handPages+"/remote")); err != nil {
		return err
	}
	restores, err := parseStats(out)
	if err != nil {
		return err
	}
	for _, s := range restores {
		if s.GetRestore() != nil {
			r.CRIU = timesFrom(last, s)
		}
	}
	r.BytesWritten, err = written(ctx, h.target, handPages)
	return err
}
