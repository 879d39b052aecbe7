// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"testing"
)

func TestTogetherTheLastActsForAll(t *testing.T) {
	cause := errors.New("no")
	for _, want := range []error{nil, cause} {
		calls := 0
		all := newTogether(3, func(context.Context) error {
			calls++
			return want
		})
		got := make(chan error)
		for range 2 {
			go func() { got <- all.arrive(t.Context()) }()
		}
		waited := make(chan bool)
		go func() { waited <- all.await(t.Context()) }()
		select {
		case err := <-got:
			t.Fatalf("one of three went on: %v", err)
		case <-waited:
			t.Fatal("it was done with one missing")
		default:
		}
		if err := all.arrive(t.Context()); !errors.Is(err, want) {
			t.Errorf("the last: %v", err)
		}
		for range 2 {
			if err := <-got; !errors.Is(err, want) {
				t.Errorf("the others: %v", err)
			}
		}
		if ok := <-waited; ok != (want == nil) || calls != 1 {
			t.Errorf("awaited %v, done %d times", ok, calls)
		}
	}
}

func TestTogetherNobodyWaitsForOneThatFailed(t *testing.T) {
	all := newTogether(2, func(context.Context) error { t.Error("done with one missing"); return nil })
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan error)
	go func() { got <- all.arrive(ctx) }()
	cancel()
	if err := <-got; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if all.await(ctx) {
		t.Error("it was done")
	}
}
