// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"sync"
	"time"

	"godwit.dev/godwit/internal/wire"
)

// preparation is what a parked create does ahead of the order to restore. It is a
// help: without it, or when it has failed, the restore begins with the order.
type preparation struct {
	begin func(im *wire.Images) (*attempt, error)
	warn  func(message string)

	// settling ends when runc waits, or has failed.
	settling sync.WaitGroup
	at       *attempt
}

// prepare begins, once, and calls done when it waits or has failed.
func (p *preparation) prepare(im *wire.Images, limit time.Duration, done func(error)) {
	if p.at != nil || im == nil {
		done(nil)
		return
	}
	at, err := p.begin(im)
	p.at = at
	if err != nil {
		done(err)
		return
	}
	p.settling.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		done(at.settled(ctx))
	})
}

// settle returns when what was begun waits or has failed.
func (p *preparation) settle() { p.settling.Wait() }

// take returns what waits to restore these images, nil when there is none. What cannot
// be used is cleared away.
func (p *preparation) take(im *wire.Images) (*attempt, error) {
	p.settle()
	at := p.at
	if at == nil {
		return nil, nil
	}
	p.at = nil
	if im != nil && at.im.Dir == im.Dir && at.im.WorkDir == im.WorkDir && !at.hasEnded() {
		at.im.Timeout = im.Timeout
		return at, nil
	}
	if at.hasEnded() {
		p.warn("the prepared restore has ended: " + at.reason())
	}
	return nil, at.discard()
}

// drop clears what was not used away. What cannot be is left to a delete.
func (p *preparation) drop() {
	if _, err := p.take(nil); err != nil {
		p.warn(err.Error())
	}
}
