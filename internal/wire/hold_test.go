// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func take(t *testing.T, dir, id string) *Hold {
	t.Helper()
	h, err := TakeHold(dir, &Request{PodUID: "pod", ContainerName: "app", ContainerID: id, Bundle: "/b/" + id})
	must(t, err)
	return h
}

func holds(t *testing.T, dir string) []HoldState {
	t.Helper()
	s, err := Holds(dir, "pod", "app")
	must(t, err)
	return s
}

// one fails unless there is exactly this one hold.
func one(t *testing.T, dir string, want HoldState) {
	t.Helper()
	got := holds(t, dir)
	if len(got) != 1 || got[0] != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestHoldTellsWhatBecameOfACreate(t *testing.T) {
	dir := t.TempDir()
	h := take(t, dir, "c1")
	s := HoldState{ContainerID: "c1", Bundle: "/b/c1", Alive: true}
	one(t, dir, s)
	must(t, h.Ordered())
	s.Ordered = true
	one(t, dir, s)
	must(t, h.Failed(errors.New(strings.Repeat("x", 2*maxError)), true))
	must(t, h.Release())
	s.Error, s.Cleared, s.Alive = strings.Repeat("x", maxError), true, false
	one(t, dir, s)
	must(t, RemoveHolds(dir, "pod"))
	if got := holds(t, dir); len(got) != 0 {
		t.Errorf("left: %+v", got)
	}
}

func TestHoldsThatEndedAreForgotten(t *testing.T) {
	dir := t.TempDir()
	failed := take(t, dir, "c1")
	must(t, failed.Ordered())
	must(t, failed.Failed(errors.New("criu"), true))
	must(t, failed.Release())
	waits := take(t, dir, "c2")
	must(t, RemoveEnded(dir, "pod", "app"))
	one(t, dir, HoldState{ContainerID: "c2", Bundle: "/b/c2", Alive: true})
	must(t, waits.Release())
	must(t, RemoveEnded(dir, "pod", "other"))
}

// Every id that runc accepts is seen.
func TestHoldOfAnyID(t *testing.T) {
	for _, id := range []string{".hidden", "a+b", "_", "-", "x.new"} {
		dir := t.TempDir()
		h := take(t, dir, id)
		one(t, dir, HoldState{ContainerID: id, Bundle: "/b/" + id, Alive: true})
		must(t, h.Release())
	}
}

func TestHoldWithoutAnOrderLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	must(t, take(t, dir, "c1").Release())
	if got := holds(t, dir); len(got) != 0 {
		t.Errorf("left: %+v", got)
	}
	if _, found, err := Restored(dir, "pod", "app"); found || err != nil {
		t.Errorf("restored: %v, %v", found, err)
	}
}

func TestHoldBecomesTheMark(t *testing.T) {
	dir := t.TempDir()
	h := take(t, dir, "c1")
	must(t, h.Ordered())
	res := &Result{Version: Version, PID: 7, Start: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Duration: time.Second}
	must(t, h.Restored(res))
	must(t, h.Release())
	got, found, err := Restored(dir, "pod", "app")
	if err != nil || !found || got == nil || *got != *res {
		t.Errorf("got %+v, %v, %v", got, found, err)
	}
	if left := holds(t, dir); len(left) != 0 {
		t.Errorf("left: %+v", left)
	}
	if uids, err := Pods(dir); err != nil || len(uids) != 1 {
		t.Errorf("pods: %v, %v", uids, err)
	}
	must(t, RemovePod(dir, "pod"))
	if uids, err := Pods(dir); err != nil || len(uids) != 0 {
		t.Errorf("pods: %v, %v", uids, err)
	}
}

// The runc that inherits the hold keeps it when its wrapper is gone.
func TestHoldLivesAsLongAsWhoInheritedIt(t *testing.T) {
	dir := t.TempDir()
	h := take(t, dir, "c1")
	must(t, h.Ordered())
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	must(t, err)
	cmd.ExtraFiles = []*os.File{h.File()}
	must(t, cmd.Start())
	must(t, h.Release())
	one(t, dir, HoldState{ContainerID: "c1", Bundle: "/b/c1", Ordered: true, Alive: true})
	if err := AwaitRelease(h.Path(), h.MarkPath(), 20*time.Millisecond); !errors.Is(err, ErrHeld) {
		t.Errorf("AwaitRelease: %v", err)
	}
	if err := RemovePod(dir, "pod"); !errors.Is(err, ErrHeld) {
		t.Errorf("RemovePod: %v", err)
	}
	must(t, in.Close())
	must(t, AwaitRelease(h.Path(), h.MarkPath(), 10*time.Second))
	_ = cmd.Wait()
	must(t, MarkCleared(h.Path(), h.MarkPath()))
	one(t, dir, HoldState{ContainerID: "c1", Bundle: "/b/c1", Ordered: true, Cleared: true})
	must(t, RemovePod(dir, "pod"))
	must(t, MarkCleared(h.Path(), h.MarkPath()))
	must(t, AwaitRelease(h.Path(), h.MarkPath(), 0))
}

func TestHoldThatCannotBeReadIsAnError(t *testing.T) {
	dir := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(dir, holdsDir, "pod", "app"), 0o700))
	must(t, os.Symlink("/dev/zero", filepath.Join(dir, holdsDir, "pod", "app", "c1")))
	if got, err := Holds(dir, "pod", "app"); err == nil {
		t.Errorf("read %+v", got)
	}
}

func FuzzHold(f *testing.F) {
	f.Add([]byte(`{"containerID":"c","bundle":"/b"}` + "\n" + `{"ordered":true}` + "\n" + `{"error":"x","cleared":true}` + "\n"))
	f.Add([]byte(`{"containerID":"c"}` + "\n" + `{"order`))
	f.Add([]byte(`{"result":{"pid":1}}` + "\n" + `{"result":null,"ordered":false}` + "\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		var all HoldState
		all.decode(in)
		// A line that is added never takes an order or a proof back.
		for i := range bytes.Count(in, []byte("\n")) + 1 {
			lines := bytes.SplitAfter(in, []byte("\n"))
			var some HoldState
			some.decode(bytes.Join(lines[:i], nil))
			if some.Ordered && !all.Ordered || some.Cleared && !all.Cleared {
				t.Fatalf("%+v became %+v", some, all)
			}
		}
	})
}

func TestAHoldBecomesTheMarkAndGoesOnTelling(t *testing.T) {
	dir := t.TempDir()
	h, err := TakeHold(dir, &Request{PodUID: "pod", ContainerName: "app", ContainerID: "c1"})
	must(t, err)
	must(t, h.Ordered())
	if _, found, err := Mark(dir, "pod", "app"); found || err != nil {
		t.Fatalf("a mark before anything could run: %v, %v", found, err)
	}
	// Twice: CRIU's configuration may name its script twice.
	must(t, MarkRun(h.Path(), h.MarkPath()))
	must(t, MarkRun(h.Path(), h.MarkPath()))
	if err := MarkRun(filepath.Join(dir, "none"), filepath.Join(dir, "nowhere")); err == nil {
		t.Error("what is not there was marked")
	}
	mark, found, err := Mark(dir, "pod", "app")
	if err != nil || !found || !mark.Alive || !mark.Ordered || mark.ContainerID != "c1" || mark.Result != nil {
		t.Fatalf("mark %+v, %v, %v", mark, found, err)
	}
	if holds, err := Holds(dir, "pod", "app"); err != nil || len(holds) != 0 {
		t.Errorf("holds %+v, %v", holds, err)
	}
	if err := AwaitRelease(h.Path(), h.MarkPath(), time.Millisecond); !errors.Is(err, ErrHeld) {
		t.Errorf("AwaitRelease: %v", err)
	}
	must(t, h.Failed(errors.New("after all"), false))
	must(t, h.Release())
	must(t, AwaitRelease(h.Path(), h.MarkPath(), time.Second))
	must(t, MarkCleared(h.Path(), h.MarkPath()))
	mark, _, err = Mark(dir, "pod", "app")
	if err != nil || mark.Alive || mark.Error != "after all" || !mark.Cleared || mark.Confirmed {
		t.Errorf("mark %+v, %v", mark, err)
	}
	must(t, Confirm(dir, "pod"))
	must(t, Confirm(dir, "pod"))
	must(t, Confirm(dir, "another"))
	if mark, _, err := Mark(dir, "pod", "app"); err != nil || !mark.Confirmed || mark.Error == "" {
		t.Errorf("mark %+v, %v", mark, err)
	}
}
