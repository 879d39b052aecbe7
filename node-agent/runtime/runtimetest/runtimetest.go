// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Package runtimetest is the conformance suite of package runtime: what its
// contracts promise, tried on an implementation. The fake passes it in every
// unit test run, the adapters for CRIU, runc and containerd on a real node.
package runtimetest

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"godwit.dev/godwit/node-agent/runtime"
)

// Node is what the suite is run on.
type Node struct {
	Finder       runtime.Finder
	Checkpointer runtime.Checkpointer
	Freezer      runtime.Freezer
	Throttler    runtime.Throttler
	Isolator     runtime.Isolator
	DirtyCounter runtime.DirtyCounter
	Killer       runtime.Killer
	Files        runtime.Files
	Inspector    runtime.Inspector
	Prober       runtime.NodeProber

	// Start starts a container for one test, with at least Memory bytes of
	// memory in use, and has it removed when the test ends.
	Start func(t *testing.T) Workload
	// Volume and Work are directories for images and for logs, fresh for each
	// node, reachable under these names from the test and from the node.
	Volume, Work string

	// Stall makes the next final dump of a workload into a directory wait for
	// the volume, in the middle of its work, until release is called. To be called
	// before the dump; waiting is closed when the dump waits.
	Stall func(t *testing.T, w Workload, imageDir string) (waiting <-chan struct{}, release func())
	// Small is a directory on a file system of its own of this many bytes.
	Small func(t *testing.T, bytes int64) string
}

// Memory is what a workload has in use at least.
const Memory = 16 << 20

// Workload is a running container.
type Workload interface {
	// Info is what the Finder knows of it.
	Info() runtime.Container
	// Progress is a counter that grows while the container runs and never else.
	// A restored container's goes on from where the dump left it.
	Progress(t *testing.T) uint64
	// Dirty makes the process write to this many bytes of its memory, each page
	// once, and returns when it has.
	Dirty(t *testing.T, bytes int64)
	// ThawOwn thaws the container's own cgroup and nothing else, as runc does before it
	// kills, behind the Freezer's back.
	ThawOwn(t *testing.T)
	// WriteFile makes the container's root file system differ from its image.
	WriteFile(t *testing.T, name, content string)
	// Restore starts another container from a final dump and the files packed
	// beside it, by way of Unpack. The workload itself must have been killed.
	Restore(t *testing.T, imageDir string, filesDirs ...string) Workload
	// ReadFile reads a file of the root file system.
	ReadFile(t *testing.T, name string) string
}

// Factory makes a node for one test.
type Factory func(t *testing.T) Node

// Run runs the suite.
func Run(t *testing.T, factory Factory) {
	for _, c := range []struct {
		name string
		test func(*testing.T, Node)
	}{
		{"Finder", testFinder},
		{"FreezeAndThaw", testFreeze},
		{"FreezeOfNothing", testFreezeNotFound},
		{"FreezePod", testFreezePod},
		{"Throttle", testThrottle},
		{"Isolate", testIsolate},
		{"PreDumpChain", testChain},
		{"PreDumpRefusals", testPreDumpRefusals},
		{"PreDumpCancelled", testPreDumpCancelled},
		{"DirtyBytes", testDirtyBytes},
		{"DumpNeedsFrozen", testDumpNeedsFrozen},
		{"DumpStaysFrozen", testDumpStaysFrozen},
		{"DumpFreezesWhenItIsReady", testDumpFreezes},
		{"DumpThatIsNotToFreeze", testDumpNotFrozen},
		{"DumpBuildsOnALaterRound", testDumpOnALaterRound},
		{"DumpHasItsMemoryElsewhere", testDumpWithPagesElsewhere},
		{"DumpOutlastsItsContext", testDumpOutlastsContext},
		{"DumpIsGivenUpAtItsDeadline", testDumpGivenUp},
		{"SettleAwaitsADump", testSettle},
		{"SettleGivesUpALateDump", testSettleLate},
		{"VolumeFull", testVolumeFull},
		{"ResumeAfterDumpLosesNothing", testResume},
		{"Restore", testRestore},
		{"FilesAreCopiedWhileItRuns", testFiles},
		{"KillRunning", testKillRunning},
		{"KillFrozen", testKillFrozen},
		{"Signal", testSignal},
		{"Discard", testDiscard},
		{"Inspect", testInspect},
		{"Probe", testProbe},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, factory(t)) })
	}
}

// limit is how long a single step may take; machines that are emulated are slow.
const limit = 2 * time.Minute

func step(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

func noError(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func wantError(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("%s: %v, want %v", what, err, want)
	}
}

// proceeds waits until a workload has made progress.
func proceeds(t *testing.T, w Workload) uint64 {
	t.Helper()
	first := w.Progress(t)
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); {
		if now := w.Progress(t); now > first {
			return now
		}
		time.Sleep(time.Millisecond) // the workload has no way to call back
	}
	t.Fatalf("no progress beyond %d", first)
	return 0
}

// stands checks that a workload makes no progress for a while. That nothing
// happens cannot be awaited.
func stands(t *testing.T, w Workload) uint64 {
	t.Helper()
	first := w.Progress(t)
	time.Sleep(200 * time.Millisecond)
	if now := w.Progress(t); now != first {
		t.Fatalf("progress from %d to %d, want none", first, now)
	}
	return first
}

func frozen(t *testing.T, n Node, c runtime.Container, want bool) {
	t.Helper()
	got, err := n.Freezer.Frozen(step(t), c)
	noError(t, "Frozen", err)
	if got != want {
		t.Fatalf("frozen is %t, want %t", got, want)
	}
}

// options are those of round k of a chain.
func (n Node) options(k int) runtime.DumpOptions {
	o := runtime.DumpOptions{
		ImageDir: filepath.Join(n.Volume, "round-"+strconv.Itoa(k)),
		WorkDir:  filepath.Join(n.Work, "round-"+strconv.Itoa(k)),
		Track:    true,
	}
	if k > 0 {
		o.Parent = "../round-" + strconv.Itoa(k-1)
	}
	return o
}

func testFinder(t *testing.T, n Node) {
	c := n.Start(t).Info()
	found, err := n.Finder.Containers(step(t), c.PodUID)
	noError(t, "Containers", err)
	if len(found) != 1 || found[0] != c {
		t.Errorf("Containers: %+v, want %+v", found, c)
	}
	got, err := n.Finder.Container(step(t), c.ID)
	noError(t, "Container", err)
	if got != c {
		t.Errorf("Container: %+v, want %+v", got, c)
	}
	if c.PID <= 1 || c.CgroupDir == "" || c.UpperDir == "" || c.Bundle == "" || c.SandboxID == "" {
		t.Errorf("incomplete: %+v", c)
	}
	_, err = n.Finder.Containers(step(t), "00000000-0000-0000-0000-000000000000")
	wantError(t, "Containers of no pod", err, runtime.ErrNotFound)
	_, err = n.Finder.Containers(step(t), `x",labels."a"=="b`)
	wantError(t, "Containers of a strange pod", err, runtime.ErrNotFound)
	_, err = n.Finder.Container(step(t), "no-such-container")
	wantError(t, "Container", err, runtime.ErrNotFound)
	ok, err := n.Finder.HasImage(step(t), "registry.invalid/no/such:image")
	noError(t, "HasImage", err)
	if ok {
		t.Error("HasImage finds an image that is not there")
	}
	noError(t, "Kill", n.Killer.Kill(step(t), c))
	// containerd learns of the end from its shim.
	for deadline := time.Now().Add(limit); ; time.Sleep(10 * time.Millisecond) {
		if _, err = n.Finder.Container(step(t), c.ID); err != nil || time.Now().After(deadline) {
			break
		}
	}
	wantError(t, "Container after its end", err, runtime.ErrNotFound)
}

func testInspect(t *testing.T, n Node) {
	w := n.Start(t)
	in, err := n.Inspector.Inspect(step(t), w.Info())
	noError(t, "Inspect", err)
	if in.Processes < 1 || in.ResidentBytes < Memory {
		t.Errorf("%d processes with %d bytes", in.Processes, in.ResidentBytes)
	}
	if in.Terminal || in.ExecSessions != 0 || in.IOUring || in.MessageQueues || in.Traced || in.HugePages ||
		len(in.MultipathTCP)+len(in.UnsupportedSockets)+len(in.BoundAddresses)+len(in.Devices) != 0 {
		t.Errorf("a plain container is not plain: %+v", in)
	}
	noError(t, "Kill", n.Killer.Kill(step(t), w.Info()))
	_, err = n.Inspector.Inspect(step(t), w.Info())
	wantError(t, "Inspect after its end", err, runtime.ErrNotFound)
}

func testProbe(t *testing.T, n Node) {
	p, err := n.Prober.Probe(step(t))
	noError(t, "Probe", err)
	if p.Kernel == "" || p.CRIU == "" || p.Runc == "" || p.Containerd == "" {
		t.Errorf("incomplete: %+v", p)
	}
	if !p.DirtyTracking || p.CRIUCheck != "" {
		t.Errorf("dirty tracking %t, check %q", p.DirtyTracking, p.CRIUCheck)
	}
	if len(p.CPUFeatures) == 0 || !slices.IsSorted(p.CPUFeatures) || p.XSaveSize == 0 {
		t.Errorf("CPU: %d features, xsave %d", len(p.CPUFeatures), p.XSaveSize)
	}
}
