// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package runtimetest

import (
	"path/filepath"
	"testing"
	"time"

	"godwit.dev/godwit/node-agent/runtime"
)

// goesOn checks that a container that was given up goes on where it stood, and
// can be dumped anew.
func goesOn(t *testing.T, n Node, w Workload, before uint64) {
	t.Helper()
	noError(t, "Thaw", n.Freezer.Thaw(step(t), w.Info()))
	if now := proceeds(t, w); now < before {
		t.Errorf("progress went back from %d to %d", before, now)
	}
	w.Dirty(t, some)
	o := n.options(0)
	o.ImageDir += "-anew"
	_, err := n.Checkpointer.PreDump(step(t), w.Info(), o)
	noError(t, "PreDump after a dump that was given up", err)
	proceeds(t, w)
	noError(t, "Freeze again", n.Freezer.Freeze(step(t), w.Info()))
	o = n.options(1)
	o.ImageDir, o.Parent = o.ImageDir+"-anew", o.Parent+"-anew"
	_, err = n.Checkpointer.Dump(step(t), w.Info(), o)
	noError(t, "Dump after a dump that was given up", err)
}

func testDumpGivenUp(t *testing.T, n Node) {
	w := n.Start(t)
	preDump(t, n, w, 0)
	noError(t, "Freeze", n.Freezer.Freeze(step(t), w.Info()))
	before := w.Progress(t)
	o := n.options(1)
	waiting, release := n.Stall(t, w, o.ImageDir)
	defer release()
	const patience = 5 * time.Second
	o.Deadline = time.Now().Add(patience)
	_, err := n.Checkpointer.Dump(step(t), w.Info(), o)
	select {
	case <-waiting:
	default:
		t.Fatalf("the dump was not held up: %v", err)
	}
	wantError(t, "Dump", err, runtime.ErrGivenUp)
	wantError(t, "Dump", err, runtime.ErrChainBroken)
	if late := time.Since(o.Deadline); late < 0 || late > 20*time.Second {
		t.Errorf("given up %v after the deadline", late)
	}
	goesOn(t, n, w, before)
}

// heldDump begins a dump that waits for the volume. The channel gets its end.
func heldDump(t *testing.T, n Node, w Workload) (release func(), ended <-chan error) {
	t.Helper()
	noError(t, "Freeze", n.Freezer.Freeze(step(t), w.Info()))
	waiting, release := n.Stall(t, w, n.options(0).ImageDir)
	end := make(chan error, 1)
	ctx := step(t)
	go func() {
		_, err := n.Checkpointer.Dump(ctx, w.Info(), n.options(0))
		end <- err
	}()
	select {
	case <-waiting:
	case err := <-end:
		release()
		t.Fatalf("the dump was not held up: %v", err)
	case <-ctx.Done():
		release()
		t.Fatal("the dump did not begin")
	}
	return release, end
}

func testSettle(t *testing.T, n Node) {
	w := n.Start(t)
	noError(t, "Settle without a dump", n.Checkpointer.Settle(step(t), w.Info(), time.Now()))
	release, ended := heldDump(t, n, w)
	settled := make(chan error, 1)
	ctx := step(t)
	go func() { settled <- n.Checkpointer.Settle(ctx, w.Info(), time.Now().Add(limit)) }()
	select {
	case err := <-settled:
		t.Errorf("Settle returned while a dump runs: %v", err)
	case <-time.After(200 * time.Millisecond): // that nothing happens cannot be awaited
	}
	release()
	noError(t, "Settle", <-settled)
	// Whatever became of it, it has ended.
	t.Logf("the dump that was held up: %v", <-ended)
	noError(t, "Settle again", n.Checkpointer.Settle(step(t), w.Info(), time.Now()))
}

func testSettleLate(t *testing.T, n Node) {
	w := n.Start(t)
	before := w.Progress(t)
	release, ended := heldDump(t, n, w)
	defer release()
	err := n.Checkpointer.Settle(step(t), w.Info(), time.Now().Add(100*time.Millisecond))
	wantError(t, "Settle", err, runtime.ErrGivenUp)
	if err := <-ended; err == nil {
		t.Error("the dump that was killed succeeded")
	}
	goesOn(t, n, w, before)
}

func testVolumeFull(t *testing.T, n Node) {
	w := n.Start(t)
	small := n.Small(t, Memory/4)
	o := n.options(0)
	o.ImageDir = filepath.Join(small, "round")
	_, err := n.Checkpointer.PreDump(step(t), w.Info(), o)
	wantError(t, "PreDump onto a full volume", err, runtime.ErrNoSpace)
	wantError(t, "PreDump onto a full volume", err, runtime.ErrChainBroken)
	before := proceeds(t, w)

	noError(t, "Freeze", n.Freezer.Freeze(step(t), w.Info()))
	small = n.Small(t, Memory/4)
	o.ImageDir = filepath.Join(small, "final")
	_, err = n.Checkpointer.Dump(step(t), w.Info(), o)
	wantError(t, "Dump onto a full volume", err, runtime.ErrNoSpace)
	frozen(t, n, w.Info(), true)
	goesOn(t, n, w, before)

	// The logs' disk.
	noError(t, "Thaw", n.Freezer.Thaw(step(t), w.Info()))
	o = n.options(0)
	o.ImageDir += "-nowork"
	o.WorkDir = fill(t, n.Small(t, 1<<16))
	_, err = n.Checkpointer.PreDump(step(t), w.Info(), o)
	wantError(t, "PreDump with logs on a full disk", err, runtime.ErrNoSpace)
	proceeds(t, w)
}
