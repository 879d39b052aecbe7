// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestBoundedHandsResultsBack(t *testing.T) {
	p := &pending{sets: map[string]int{}}
	cause := errors.New("cause")
	got, err := bounded(t.Context(), p, "set", "work", func(context.Context) (int, error) { return 7, cause })
	if got != 7 || !errors.Is(err, cause) {
		t.Errorf("got %d, %v", got, err)
	}
	if p.stuck("set") {
		t.Error("a step that has ended counts as stuck")
	}
}

func TestBoundedGivesUpAndLetsNothingElseBegin(t *testing.T) {
	woken := make(chan struct{}, 1)
	p := &pending{sets: map[string]int{}, ended: func() { woken <- struct{}{} }}
	release := make(chan struct{})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	got, err := bounded(ctx, p, "set", "work", func(context.Context) (int, error) { <-release; return 7, nil })
	if got != 0 || !errors.Is(err, errNoAnswer) || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %d, %v", got, err)
	}
	begun := false
	_, err = bounded(t.Context(), p, "set", "more work", func(context.Context) (int, error) { begun = true; return 0, nil })
	if begun || !errors.Is(err, errStuck) {
		t.Errorf("a second writer began (%t): %v", begun, err)
	}
	if _, err := bounded(t.Context(), p, "another set", "work", func(context.Context) (int, error) { return 0, nil }); err != nil {
		t.Errorf("another set has to wait, too: %v", err)
	}
	close(release)
	select {
	case <-woken:
	case <-time.After(10 * time.Second):
		t.Fatal("the end of the stuck step wakes nobody")
	}
	if _, err := bounded(t.Context(), p, "set", "work", func(context.Context) (int, error) { return 0, nil }); err != nil {
		t.Errorf("after the end: %v", err)
	}
}
