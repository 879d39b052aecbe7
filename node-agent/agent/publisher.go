// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"sync"

	"github.com/go-logr/logr"

	"godwit.dev/godwit/api/v1alpha1"
)

// publisher sends the source's reports one at a time and never an older one
// after a newer one.
type publisher struct {
	apply func(context.Context, v1alpha1.SourceReport) error

	mu   sync.Mutex // held while one is sent
	seq  sync.Mutex
	last int // number of the newest report handed in
}

// publish sends a report and waits until it is stored.
func (p *publisher) publish(ctx context.Context, r v1alpha1.SourceReport) error {
	return p.send(ctx, r, p.number())
}

// publishSoon sends a report in the background. Losing it is harmless: the next
// one holds everything.
func (p *publisher) publishSoon(ctx context.Context, r v1alpha1.SourceReport, log logr.Logger) {
	n := p.number()
	go func() {
		if err := p.send(ctx, r, n); err != nil {
			log.Info("report not published in the background", "error", err.Error())
		}
	}()
}

func (p *publisher) number() int {
	p.seq.Lock()
	defer p.seq.Unlock()
	p.last++
	return p.last
}

func (p *publisher) send(ctx context.Context, r v1alpha1.SourceReport, n int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seq.Lock()
	newest := n == p.last
	p.seq.Unlock()
	if !newest {
		return nil // a newer one follows and says it all
	}
	return p.apply(ctx, r)
}
