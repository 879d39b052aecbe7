// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package runtimetest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"godwit.dev/godwit/node-agent/runtime"
)

// some is memory to dirty: well below Memory, well above what a program dirties
// by just running.
const some = 4 << 20

func preDump(t *testing.T, n Node, w Workload, k int) runtime.DumpStats {
	t.Helper()
	s, err := n.Checkpointer.PreDump(step(t), w.Info(), n.options(k))
	noError(t, "PreDump", err)
	t.Logf("round %d: %+v", k, s)
	return s
}

func testChain(t *testing.T, n Node) {
	w := n.Start(t)
	full := preDump(t, n, w, 0)
	frozen(t, n, w.Info(), false)
	proceeds(t, w)
	if full.MemoryBytes < Memory || full.Bytes < full.PagesWritten || full.PagesSkipped != 0 || full.Start.IsZero() || full.Duration <= 0 {
		t.Errorf("the full round: %+v", full)
	}
	preDump(t, n, w, 1)
	w.Dirty(t, some)
	second := preDump(t, n, w, 2)
	if second.MemoryBytes < some || second.MemoryBytes >= full.MemoryBytes || second.PagesSkipped == 0 {
		t.Errorf("%d bytes were dirtied, the round: %+v", some, second)
	}
	proceeds(t, w)
	for k := range 3 {
		o := n.options(k)
		link, err := os.Readlink(filepath.Join(o.ImageDir, "parent"))
		if o.Parent != "" && (err != nil || link != o.Parent) || o.Parent == "" && err == nil {
			t.Errorf("round %d: parent link %q, %v", k, link, err)
		}
		if fi, err := os.Stat(o.ImageDir); err != nil || fi.Mode().Perm() != 0o700 {
			t.Errorf("round %d: mode %v, %v", k, fi.Mode(), err)
		}
	}
}

func testPreDumpRefusals(t *testing.T, n Node) {
	w := n.Start(t)
	preDump(t, n, w, 0)
	for name, change := range map[string]func(*runtime.DumpOptions){
		"a parent that is missing":  func(o *runtime.DumpOptions) { o.Parent = "../missing" },
		"an absolute parent":        func(o *runtime.DumpOptions) { o.Parent = n.options(0).ImageDir },
		"a parent that is no dump":  func(o *runtime.DumpOptions) { o.Parent = "../.." },
		"a directory that is taken": func(o *runtime.DumpOptions) { o.ImageDir, o.Parent = n.options(0).ImageDir, "" },
	} {
		o := n.options(1)
		change(&o)
		if _, err := n.Checkpointer.PreDump(step(t), w.Info(), o); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	proceeds(t, w)
}

func testPreDumpCancelled(t *testing.T, n Node) {
	w := n.Start(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := n.Checkpointer.PreDump(ctx, w.Info(), n.options(0))
	wantError(t, "PreDump", err, context.Canceled)
	proceeds(t, w)
	// In the middle: whatever comes out, the container runs, and a new chain works.
	ctx, cancel = context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	o := n.options(0)
	o.ImageDir += "-cancelled"
	_, err = n.Checkpointer.PreDump(ctx, w.Info(), o)
	t.Logf("cancelled in the middle: %v", err)
	proceeds(t, w)
	o = n.options(0)
	o.ImageDir += "-anew"
	_, err = n.Checkpointer.PreDump(step(t), w.Info(), o)
	noError(t, "PreDump after a cancelled one", err)
	proceeds(t, w)
}

func testDirtyBytes(t *testing.T, n Node) {
	w := n.Start(t)
	preDump(t, n, w, 0)
	base, err := n.DirtyCounter.DirtyBytes(step(t), w.Info())
	noError(t, "DirtyBytes", err)
	w.Dirty(t, some)
	var last int64
	for range 2 { // counting takes nothing away
		last, err = n.DirtyCounter.DirtyBytes(step(t), w.Info())
		noError(t, "DirtyBytes", err)
		if last < some || last > base+3*some {
			t.Errorf("%d bytes dirty after %d and writing %d", last, base, some)
		}
	}
	noError(t, "Freeze", n.Freezer.Freeze(step(t), w.Info()))
	counted, err := n.DirtyCounter.DirtyBytes(step(t), w.Info())
	noError(t, "DirtyBytes while frozen", err)
	s, err := n.Checkpointer.Dump(step(t), w.Info(), n.options(1))
	noError(t, "Dump", err)
	// CRIU runs code in the tasks, which dirties a few pages more.
	const slack = 1 << 20
	if s.MemoryBytes < counted-slack || s.MemoryBytes > counted+slack {
		t.Errorf("counted %d bytes, dumped %d", counted, s.MemoryBytes)
	}
}

func testDumpNeedsFrozen(t *testing.T, n Node) {
	w := n.Start(t)
	preDump(t, n, w, 0)
	if _, err := n.Checkpointer.Dump(step(t), w.Info(), n.options(1)); err == nil {
		t.Fatal("Dump of a running container succeeded")
	}
	proceeds(t, w)
	preDump(t, n, w, 1) // the chain is whole
}

// freezeAndDump takes a chain of three rounds and the final dump.
func freezeAndDump(t *testing.T, n Node, w Workload) (final runtime.DumpOptions, s runtime.DumpStats) {
	t.Helper()
	for k := range 3 {
		preDump(t, n, w, k)
		w.Dirty(t, some/4)
	}
	noError(t, "Isolate", n.Isolator.Isolate(step(t), w.Info()))
	noError(t, "Freeze", n.Freezer.Freeze(step(t), w.Info()))
	final = n.options(3)
	s, err := n.Checkpointer.Dump(step(t), w.Info(), final)
	noError(t, "Dump", err)
	t.Logf("final: %+v", s)
	return final, s
}

func testDumpStaysFrozen(t *testing.T, n Node) {
	w := n.Start(t)
	_, s := freezeAndDump(t, n, w)
	frozen(t, n, w.Info(), true)
	stands(t, w)
	if s.Frozen != 0 || s.PagesSkipped == 0 || s.MemoryBytes > Memory {
		t.Errorf("the final dump: %+v", s)
	}
	// A failing one leaves it frozen, too.
	o := n.options(4)
	o.Parent = "../missing"
	if _, err := n.Checkpointer.Dump(step(t), w.Info(), o); err == nil {
		t.Error("Dump with a parent that is missing succeeded")
	}
	frozen(t, n, w.Info(), true)
}

func testDumpFreezes(t *testing.T, n Node) {
	w := n.Start(t)
	preDump(t, n, w, 0)
	o, frozenAt := n.options(1), uint64(0)
	o.Freeze = func(ctx context.Context, _ runtime.Standing) (time.Time, error) {
		proceeds(t, w) // it runs until we say so
		err := n.Freezer.Freeze(ctx, w.Info())
		frozenAt = w.Progress(t)
		return time.Now().Add(limit), err
	}
	s, err := n.Checkpointer.Dump(step(t), w.Info(), o)
	noError(t, "Dump", err)
	t.Logf("final: %+v", s)
	frozen(t, n, w.Info(), true)
	if now := stands(t, w); frozenAt == 0 || now != frozenAt {
		t.Errorf("progress from %d to %d during a dump", frozenAt, now)
	}
	if s.PagesSkipped == 0 || s.MemoryBytes > Memory {
		t.Errorf("the final dump: %+v", s)
	}
}

// The last round is made while the dump stands ready, and the dump builds on it.
func testDumpOnALaterRound(t *testing.T, n Node) {
	w := n.Start(t)
	preDump(t, n, w, 0)
	w.Dirty(t, some/2)
	o := n.options(1)
	o.ImageDir, o.WorkDir = o.ImageDir+"-final", o.WorkDir+"-final"
	var round runtime.DumpStats
	o.Freeze = func(ctx context.Context, d runtime.Standing) (time.Time, error) {
		round = preDump(t, n, w, 1)
		if err := d.Rebase(n.options(2).Parent); err != nil {
			return time.Time{}, err
		}
		return time.Now().Add(limit), n.Freezer.Freeze(ctx, w.Info())
	}
	s, err := n.Checkpointer.Dump(step(t), w.Info(), o)
	noError(t, "Dump", err)
	t.Logf("round: %+v\nfinal: %+v", round, s)
	frozen(t, n, w.Info(), true)
	if parent, err := os.Readlink(filepath.Join(o.ImageDir, "parent")); err != nil || parent != n.options(2).Parent {
		t.Errorf("it builds on %q: %v", parent, err)
	}
	if round.MemoryBytes < some/2 || s.PagesSkipped == 0 || s.MemoryBytes >= round.MemoryBytes {
		t.Errorf("%d bytes in the round, %d in the final dump", round.MemoryBytes, s.MemoryBytes)
	}
	before := stands(t, w)
	packed, _ := packFrozen(t, n, w)
	noError(t, "Kill", n.Killer.Kill(step(t), w.Info()))
	restored := w.Restore(t, o.ImageDir, packed...)
	if now := proceeds(t, restored); now <= before {
		t.Errorf("restored at %d, was frozen at %d", now, before)
	}

	// One that was started without a parent gets none.
	o = n.options(0)
	o.ImageDir += "-full"
	o.Freeze = func(_ context.Context, d runtime.Standing) (time.Time, error) {
		if d.Rebase(n.options(1).Parent) == nil {
			t.Error("a full dump was given a parent")
		}
		return time.Time{}, errors.New("enough")
	}
	if _, err := n.Checkpointer.Dump(step(t), restored.Info(), o); err == nil {
		t.Error("it was dumped all the same")
	}
	proceeds(t, restored)
}

// The small files of the final dump are on the node, its memory with the rounds.
func testDumpWithPagesElsewhere(t *testing.T, n Node) {
	w := n.Start(t)
	preDump(t, n, w, 0)
	w.Dirty(t, some)
	o := n.options(1)
	o.PagesDir = o.ImageDir
	o.ImageDir = filepath.Join(n.Work, "elsewhere", "final")
	noError(t, "make directories", errors.Join(os.MkdirAll(o.PagesDir, 0o700), os.MkdirAll(filepath.Dir(o.ImageDir), 0o700)))
	// The round that it builds on is a sibling all the same.
	to, err := filepath.Rel(filepath.Dir(o.ImageDir), n.options(0).ImageDir)
	noError(t, "find the way to the round", err)
	noError(t, "link the round", os.Symlink(to, filepath.Join(filepath.Dir(o.ImageDir), filepath.Base(o.Parent))))
	noError(t, "Freeze", n.Freezer.Freeze(step(t), w.Info()))
	s, err := n.Checkpointer.Dump(step(t), w.Info(), o)
	noError(t, "Dump", err)
	t.Logf("final: %+v", s)
	if s.PagesSkipped == 0 || s.Bytes < s.PagesWritten {
		t.Errorf("the dump: %+v", s)
	}
	here, err := os.ReadDir(o.PagesDir)
	noError(t, "ReadDir", err)
	if len(here) == 0 {
		t.Error("no memory is in its place")
	}
	for _, e := range here {
		if !strings.HasPrefix(e.Name(), "pages-") {
			t.Errorf("%s is with the memory", e.Name())
		}
	}
	before := stands(t, w)
	packed, _ := packFrozen(t, n, w)
	noError(t, "Kill", n.Killer.Kill(step(t), w.Info()))
	restored := w.Restore(t, o.ImageDir, packed...)
	if now := proceeds(t, restored); now <= before {
		t.Errorf("restored at %d, was frozen at %d", now, before)
	}
}

// A dump that is not to be made after all has touched nothing.
func testDumpNotFrozen(t *testing.T, n Node) {
	w := n.Start(t)
	preDump(t, n, w, 0)
	refused := errors.New("changed my mind")
	o := n.options(1)
	o.ImageDir += "-refused"
	o.Freeze = func(context.Context, runtime.Standing) (time.Time, error) { return time.Time{}, refused }
	_, err := n.Checkpointer.Dump(step(t), w.Info(), o)
	wantError(t, "Dump", err, refused)
	frozen(t, n, w.Info(), false)
	proceeds(t, w)

	// Frozen by nobody.
	o = n.options(1)
	o.ImageDir += "-running"
	o.Freeze = func(context.Context, runtime.Standing) (time.Time, error) { return time.Now().Add(limit), nil }
	if _, err := n.Checkpointer.Dump(step(t), w.Info(), o); err == nil {
		t.Error("Dump of a running container succeeded")
	}
	proceeds(t, w)

	ctx, cancel := context.WithCancel(t.Context())
	o = n.options(1)
	o.ImageDir += "-cancelled"
	o.Freeze = func(ctx context.Context, _ runtime.Standing) (time.Time, error) {
		cancel()
		<-ctx.Done()
		return time.Time{}, ctx.Err()
	}
	_, err = n.Checkpointer.Dump(ctx, w.Info(), o)
	wantError(t, "Dump", err, context.Canceled)
	frozen(t, n, w.Info(), false)

	preDump(t, n, w, 1) // the chain is whole
	proceeds(t, w)
}

func testDumpOutlastsContext(t *testing.T, n Node) {
	w := n.Start(t)
	noError(t, "Freeze", n.Freezer.Freeze(step(t), w.Info()))
	before := w.Progress(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan struct{})
	watched := make(chan struct{})
	go func() { // ends the context as soon as the dump writes
		defer close(watched)
		for {
			if names, _ := os.ReadDir(n.options(0).ImageDir); len(names) > 0 {
				cancel()
				return
			}
			select {
			case <-ended:
				return
			case <-time.After(time.Millisecond):
			}
		}
	}()
	_, err := n.Checkpointer.Dump(ctx, w.Info(), n.options(0))
	close(ended)
	<-watched
	noError(t, "Dump", err)
	frozen(t, n, w.Info(), true)
	if now := stands(t, w); now != before {
		t.Errorf("progress from %d to %d during a dump", before, now)
	}
}

func testResume(t *testing.T, n Node) {
	w := n.Start(t)
	freezeAndDump(t, n, w)
	before := stands(t, w)
	noError(t, "Thaw", n.Freezer.Thaw(step(t), w.Info()))
	noError(t, "Connect", n.Isolator.Connect(step(t), w.Info()))
	if now := proceeds(t, w); now < before {
		t.Errorf("progress went back from %d to %d", before, now)
	}
	// A second attempt starts a new chain.
	o := n.options(0)
	o.ImageDir += "-second"
	_, err := n.Checkpointer.PreDump(step(t), w.Info(), o)
	noError(t, "PreDump after a resume", err)
}

func testRestore(t *testing.T, n Node) {
	w := n.Start(t)
	w.WriteFile(t, "data/note", "written by the source")
	proceeds(t, w)
	final, _ := freezeAndDump(t, n, w)
	packed, size := packFrozen(t, n, w)
	if size <= 0 {
		t.Errorf("Pack wrote %d bytes", size)
	}
	before := stands(t, w)
	noError(t, "Kill", n.Killer.Kill(step(t), w.Info()))
	restored := w.Restore(t, final.ImageDir, packed...)
	if got := restored.ReadFile(t, "data/note"); got != "written by the source" {
		t.Errorf("the file is %q", got)
	}
	if now := proceeds(t, restored); now <= before {
		t.Errorf("restored at %d, was frozen at %d", now, before)
	}
	// There and back again: what was restored can be dumped.
	o := n.options(0)
	o.ImageDir += "-back"
	_, err := n.Checkpointer.PreDump(step(t), restored.Info(), o)
	noError(t, "PreDump of the restored container", err)
	noError(t, "Discard", n.Killer.Discard(step(t), restored.Info().ID, restored.Info().Bundle))
	stands(t, restored)
}
