// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"godwit.dev/godwit/internal/wire"
)

// errNotCleared: something of what was prepared may be left.
var errNotCleared = errors.New("what was prepared could not be cleared away")

// preparation is what a parked create does ahead of the order to restore. It is a
// help: without it, or when it has failed, the restore begins with the order.
type preparation struct {
	begin func(im *wire.Images) (*attempt, error)
	warn  func(message string)
	// patience is how long one is waited for that is not wanted any more.
	patience time.Duration

	at *attempt
	// settled is closed when runc waits, or has failed, or when there is no runc.
	settled chan struct{}
}

// prepare begins, once, and calls done when it waits or has failed.
func (p *preparation) prepare(im *wire.Images, limit time.Duration, done func(error)) {
	if p.at != nil || im == nil {
		done(nil)
		return
	}
	at, err := p.begin(im)
	p.at, p.settled = at, make(chan struct{})
	if err != nil {
		close(p.settled)
		done(err)
		return
	}
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		err := at.settled(ctx)
		close(p.settled)
		done(err)
	}()
}

// take returns what waits to restore these images, nil when there is none. What cannot
// be used is cleared away, and the error is errNotCleared if that fails. One that is
// still under way is waited for, for it may fail and has to be begun anew then; when ctx
// ends first the error is errDeadline.
func (p *preparation) take(ctx context.Context, im *wire.Images) (*attempt, error) {
	at := p.at
	if at == nil {
		return nil, nil
	}
	p.at = nil
	var late error
	select {
	case <-p.settled:
	case <-ctx.Done():
		late = fmt.Errorf("%w: what was to be prepared", errDeadline)
	}
	if late == nil && im != nil && at.im.Dir == im.Dir && at.im.WorkDir == im.WorkDir && at.im.Frozen == im.Frozen && !at.hasEnded() {
		at.im.Timeout = im.Timeout
		return at, nil
	}
	if late == nil && at.hasEnded() {
		p.warn("the prepared restore has ended: " + at.reason())
	}
	if err := at.discard(); err != nil {
		return nil, errors.Join(late, fmt.Errorf("%w: %w", errNotCleared, err))
	}
	return nil, late
}

// drop clears what was not used away. What cannot be is left to a delete.
func (p *preparation) drop() {
	ctx, cancel := context.WithTimeout(context.Background(), p.patience)
	defer cancel()
	if _, err := p.take(ctx, nil); err != nil {
		p.warn(err.Error())
	}
}
