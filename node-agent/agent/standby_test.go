// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"testing"
	"time"

	"godwit.dev/godwit/node-agent/runtime"
)

// rebased is a dump that stands ready; it notes what it is to build on.
type rebased struct{ parents []string }

func (r *rebased) Rebase(parent string) error {
	r.parents = append(r.parents, parent)
	return nil
}

func dumpsOf(ids ...string) (dumps []*finalDump, containers []runtime.Container) {
	for _, id := range ids {
		c := runtime.Container{ID: id}
		containers = append(containers, c)
		dumps = append(dumps, &finalDump{container: c})
	}
	return dumps, containers
}

func TestStandby(t *testing.T) {
	dumps, containers := dumpsOf("a", "b")
	deadline := time.Now().Add(time.Hour)
	woken := make(chan struct{}, 2)
	second := make(chan struct{})
	standing := []*rebased{{}, {}}
	b := startStandby(t.Context(), dumps, time.Hour, errors.New("late"), func(ctx context.Context, d *finalDump) error {
		i := 0
		if d.container.ID == "b" {
			i = 1
			<-second
		}
		got, err := d.options.Freeze(ctx, standing[i])
		if err == nil && !got.Equal(deadline) {
			err = errors.New("another deadline")
		}
		return err
	}, func() { woken <- struct{}{} })
	if b.isReady() || b.hasEnded() {
		t.Error("one of two is enough")
	}
	close(second)
	<-woken
	if !b.isReady() || b.hasEnded() {
		t.Error("both stand ready, and it is not")
	}
	must(t, b.of(containers))
	if _, others := dumpsOf("a", "c"); b.of(others) == nil {
		t.Error("taken for the dumps of another container")
	}
	must(t, b.rebase("../round-004"))
	for i, s := range standing {
		if len(s.parents) != 1 || s.parents[0] != "../round-004" {
			t.Errorf("dump %d was to build on %v", i, s.parents)
		}
	}
	b.release(deadline)
	must(t, b.wait())
	<-woken
	if b.isReady() {
		t.Error("ready after the end")
	}
	b.dismiss(errors.New("too late"))
}

func TestStandbyIsDismissed(t *testing.T) {
	dumps, _ := dumpsOf("a", "b")
	woken := make(chan struct{}, 2)
	errs := make(chan error, 2)
	b := startStandby(t.Context(), dumps, time.Hour, nil, func(ctx context.Context, d *finalDump) error {
		if d.container.ID == "b" {
			<-ctx.Done() // one that never becomes ready
			errs <- context.Cause(ctx)
			return context.Cause(ctx)
		}
		_, err := d.options.Freeze(ctx, &rebased{})
		errs <- err
		return err
	}, func() { woken <- struct{}{} })
	b.dismiss(errDismissed)
	for range 2 {
		if err := <-errs; !errors.Is(err, errDismissed) {
			t.Error(err)
		}
	}
	if !b.hasEnded() || b.isReady() {
		t.Error("it was not waited for the end")
	}
}

// When one fails, or is late, nobody waits for it.
func TestStandbyThatFails(t *testing.T) {
	failed, late := errors.New("no space"), errors.New("late")
	for want, limit := range map[error]time.Duration{failed: time.Hour, late: time.Millisecond} {
		dumps, _ := dumpsOf("a", "b")
		woken := make(chan struct{}, 2)
		b := startStandby(t.Context(), dumps, limit, late, func(ctx context.Context, d *finalDump) error {
			switch {
			case d.container.ID == "a":
				_, err := d.options.Freeze(ctx, &rebased{})
				return err
			case errors.Is(want, failed):
				return failed
			}
			<-ctx.Done()
			return context.Cause(ctx)
		}, func() { woken <- struct{}{} })
		<-woken
		if err := b.wait(); !errors.Is(err, want) || b.isReady() {
			t.Errorf("%v, ready %v; want %v", err, b.isReady(), want)
		}
	}
}
