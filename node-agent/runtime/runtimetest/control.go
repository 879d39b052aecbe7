// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package runtimetest

import (
	"context"
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

func testFreezeNotFound(t *testing.T, n Node) {
	w := n.Start(t)
	c := w.Info()
	noError(t, "Kill", n.Killer.Kill(step(t), c))
	wantError(t, "Freeze", n.Freezer.Freeze(step(t), c), runtime.ErrNotFound)
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
	for deadline := time.Now().Add(limit); ; time.Sleep(time.Millisecond) {
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
