// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package runtimetest

import (
	"context"
	"errors"
	"testing"
	"time"

	"godwit.dev/godwit/node-agent/runtime"
)

func testFreeze(t *testing.T, n Node) {
	w := n.Start(t)
	c := w.Info()
	frozen(t, n, c, false)
	proceeds(t, w)
	noError(t, "Thaw of a running container", n.Freezer.Thaw(step(t), c))
	for range 2 { // repeating is not an error
		noError(t, "Freeze", n.Freezer.Freeze(step(t), c))
		frozen(t, n, c, true)
		stands(t, w)
	}
	for range 2 {
		noError(t, "Thaw", n.Freezer.Thaw(step(t), c))
		frozen(t, n, c, false)
		proceeds(t, w)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := n.Freezer.Freeze(cancelled, c); err == nil {
		t.Error("Freeze with an ended context succeeded")
	}
	frozen(t, n, c, false)
}

func testFreezePod(t *testing.T, n Node) {
	w := n.Start(t)
	c := w.Info()
	noError(t, "Freeze", n.Freezer.Freeze(step(t), c))
	for range 2 { // repeating is not an error
		noError(t, "FreezePod", n.Freezer.FreezePod(step(t), c))
		frozen(t, n, c, true)
		stands(t, w)
	}
	w.ThawOwn(t)
	stands(t, w)
	frozen(t, n, c, true)
	noError(t, "Thaw", n.Freezer.Thaw(step(t), c))
	frozen(t, n, c, false)
	proceeds(t, w)
	noError(t, "Freeze", n.Freezer.Freeze(step(t), c))
	noError(t, "FreezePod", n.Freezer.FreezePod(step(t), c))
	noError(t, "Kill of a held container", n.Killer.Kill(step(t), c))
	// Its pod is thawed all the same, whether or not the empty cgroup is gone already.
	if err := n.Freezer.Thaw(step(t), c); err != nil && !errors.Is(err, runtime.ErrNotFound) {
		t.Errorf("Thaw of a container that was killed: %v", err)
	}
}

func testFreezeNotFound(t *testing.T, n Node) {
	w := n.Start(t)
	c := w.Info()
	noError(t, "Kill", n.Killer.Kill(step(t), c))
	wantError(t, "Freeze", n.Freezer.Freeze(step(t), c), runtime.ErrNotFound)
}

func testThrottle(t *testing.T, n Node) {
	w := n.Start(t)
	c := w.Info()
	limit := func(what string, want runtime.CPULimit) runtime.CPU {
		t.Helper()
		cpu, err := n.Throttler.CPU(step(t), c)
		noError(t, "CPU", err)
		if want.Period != 0 && cpu.Limit != want {
			t.Errorf("%s: the limit is %+v, want %+v", what, cpu.Limit, want)
		}
		return cpu
	}
	before := limit("at first", runtime.CPULimit{})
	if before.Limit.Period <= 0 {
		t.Errorf("the limit is %+v, without a period", before.Limit)
	}
	tenth := runtime.CPULimit{Quota: before.Limit.Period / 10, Period: before.Limit.Period}
	for range 2 {
		noError(t, "Limit", n.Throttler.Limit(step(t), c, tenth))
		limit("throttled", tenth)
	}
	proceeds(t, w)
	noError(t, "Limit back", n.Throttler.Limit(step(t), c, before.Limit))
	proceeds(t, w)
	if after := limit("afterwards", before.Limit); after.Used <= before.Used {
		t.Errorf("it has used %s before, and %s after it has worked", before.Used, after.Used)
	}
	if err := n.Throttler.Limit(step(t), c, runtime.CPULimit{Quota: -1}); err == nil {
		t.Error("a limit without a period was taken")
	}
	noError(t, "Kill", n.Killer.Kill(step(t), c))
	gone := c
	gone.CgroupDir += "-gone"
	gone.ID += "-gone"
	wantError(t, "Limit of a container that is gone", n.Throttler.Limit(step(t), gone, tenth), runtime.ErrNotFound)
}

func testIsolate(t *testing.T, n Node) {
	c := n.Start(t).Info()
	noError(t, "Connect before Isolate", n.Isolator.Connect(step(t), c))
	for range 2 {
		noError(t, "Isolate", n.Isolator.Isolate(step(t), c))
	}
	for range 2 {
		noError(t, "Connect", n.Isolator.Connect(step(t), c))
	}
	noError(t, "Isolate", n.Isolator.Isolate(step(t), c))
	noError(t, "Freeze", n.Freezer.Freeze(step(t), c))
	noError(t, "Isolate while frozen", n.Isolator.Isolate(step(t), c))
	for range 2 {
		noError(t, "Disown while frozen", n.Isolator.Disown(step(t), c))
	}
	noError(t, "Connect while frozen", n.Isolator.Connect(step(t), c))
}

func testKillRunning(t *testing.T, n Node) {
	w := n.Start(t)
	proceeds(t, w)
	noError(t, "Kill", n.Killer.Kill(step(t), w.Info()))
	stands(t, w)
	noError(t, "Kill again", n.Killer.Kill(step(t), w.Info()))
	gone := w.Info()
	gone.CgroupDir += "-gone"
	gone.ID += "-gone"
	noError(t, "Kill of a container that is gone", n.Killer.Kill(step(t), gone))
}

func testKillFrozen(t *testing.T, n Node) {
	w := n.Start(t)
	proceeds(t, w)
	noError(t, "Freeze", n.Freezer.Freeze(step(t), w.Info()))
	last := w.Progress(t)
	noError(t, "Kill", n.Killer.Kill(step(t), w.Info()))
	if now := stands(t, w); now != last {
		t.Errorf("a frozen container ran from %d to %d when it was killed", last, now)
	}
}

func testSignal(t *testing.T, n Node) {
	w := n.Start(t)
	c := w.Info()
	const sigkill, sigcont = 9, 18
	noError(t, "Signal", n.Killer.Signal(step(t), c, sigcont))
	proceeds(t, w)
	noError(t, "Signal", n.Killer.Signal(step(t), c, sigkill))
	var err error
	// That it is gone, only trying tells: the suite is nobody's parent here.
	for deadline := time.Now().Add(limit); ; time.Sleep(time.Millisecond) { // it can only be tried
		if err = n.Killer.Signal(step(t), c, sigcont); err != nil || time.Now().After(deadline) {
			break
		}
	}
	wantError(t, "Signal to a container that has ended", err, runtime.ErrNotFound)
}

func testDiscard(t *testing.T, n Node) {
	w := n.Start(t)
	c := w.Info()
	proceeds(t, w)
	noError(t, "Freeze", n.Freezer.Freeze(step(t), c))
	noError(t, "Discard", n.Killer.Discard(step(t), c.ID, c.Bundle))
	stands(t, w)
	for _, id := range []string{"", "../x", "a/b"} {
		if err := n.Killer.Discard(step(t), id, ""); err == nil {
			t.Errorf("Discard of %q succeeded", id)
		}
	}
}
