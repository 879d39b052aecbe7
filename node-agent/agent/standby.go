// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"godwit.dev/godwit/node-agent/runtime"
)

// errDismissed: the final dumps are not to be made after all.
var errDismissed = errors.New("the final dump is not needed any more")

// standby are the final dumps of an armed source. They have been started, so that
// runc and CRIU are there when the pod is frozen, and touch nothing before.
type standby struct {
	dumps  []*finalDump
	cancel context.CancelCauseFunc

	// ready is closed when all of them stand ready, ended when none runs any more;
	// then err is valid.
	ready, ended chan struct{}
	err          error

	// released is closed when they may go on, until the deadline, or must not.
	released chan struct{}
	once     sync.Once
	deadline time.Time
	refused  error

	mu       sync.Mutex
	standing []runtime.Standing
}

// startStandby starts the dumps, each with dump. wake is called when all of them stand
// ready, and when they have ended. What is not ready within the limit ends with late.
func startStandby(ctx context.Context, dumps []*finalDump, limit time.Duration, late error, dump func(context.Context, *finalDump) error, wake func()) *standby {
	b := &standby{dumps: dumps, ready: make(chan struct{}), ended: make(chan struct{}), released: make(chan struct{})}
	ctx, b.cancel = context.WithCancelCause(ctx)
	g, gctx := errgroup.WithContext(ctx)
	timer := time.AfterFunc(limit, func() { b.cancel(late) })
	for _, d := range dumps {
		g.Go(func() error {
			d.options.Freeze = func(ctx context.Context, s runtime.Standing) (time.Time, error) {
				if b.arrive(s) {
					timer.Stop()
					close(b.ready)
					wake()
				}
				return b.await(ctx)
			}
			return dump(gctx, d)
		})
	}
	go func() {
		b.err = g.Wait()
		timer.Stop()
		b.cancel(nil)
		close(b.ended)
		wake()
	}()
	return b
}

// arrive says whether the dump is the last one to stand ready.
func (b *standby) arrive(s runtime.Standing) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.standing = append(b.standing, s)
	return len(b.standing) == len(b.dumps)
}

func (b *standby) await(ctx context.Context) (time.Time, error) {
	select {
	case <-b.released:
		return b.deadline, b.refused
	case <-ctx.Done():
		return time.Time{}, context.Cause(ctx)
	}
}

// isReady says whether all dumps wait for the freeze.
func (b *standby) isReady() bool {
	select {
	case <-b.ready:
		return !b.hasEnded()
	default:
		return false
	}
}

func (b *standby) hasEnded() bool {
	select {
	case <-b.ended:
		return true
	default:
		return false
	}
}

// of says whether the dumps are those of these containers.
func (b *standby) of(containers []runtime.Container) error {
	same := slices.EqualFunc(b.dumps, containers, func(d *finalDump, c runtime.Container) bool { return d.container.ID == c.ID })
	if !same {
		return errors.New("a container was restarted while its final dump stood ready; the pod goes on, try again")
	}
	return nil
}

// rebase makes the dumps build on a round that was made while they stood ready.
func (b *standby) rebase(parent string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.standing {
		if err := s.Rebase(parent); err != nil {
			return err
		}
	}
	return nil
}

// release lets the dumps go on: the pod is frozen.
func (b *standby) release(deadline time.Time) {
	b.once.Do(func() {
		b.deadline = deadline
		close(b.released)
	})
}

// wait returns when the dumps have ended.
func (b *standby) wait() error {
	<-b.ended
	return b.err
}

// dismiss ends dumps that were not released, and returns when nothing of them is left.
func (b *standby) dismiss(cause error) {
	b.once.Do(func() {
		b.refused = cause
		close(b.released)
		b.cancel(cause)
	})
	<-b.ended
}
