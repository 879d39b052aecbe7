// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"testing"
	"time"
)

// standing leaves a container that was restored and stands still.
func standing(t *testing.T, dir, container string) {
	t.Helper()
	h, err := TakeHold(dir, &Request{PodUID: "pod", ContainerName: container, ContainerID: "c1"})
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{h.Ordered(), h.Frozen(&Result{PID: 7}), h.Release()} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	all, err := AllStanding(dir)
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, s := range all {
		found = append(found, s.Container)
	}
	return found
}

func TestWhatStandsStillIsNotMarkedUntilItIsLetGo(t *testing.T) {
	dir := t.TempDir()
	if got := names(t, dir); len(got) != 0 {
		t.Errorf("found %v where nothing is", got)
	}
	standing(t, dir, "a")
	standing(t, dir, "b")
	alive, err := TakeHold(dir, &Request{PodUID: "pod", ContainerName: "c", ContainerID: "c1"})
	if err != nil {
		t.Fatal(err)
	}
	if err := alive.Frozen(&Result{PID: 8}); err != nil {
		t.Fatal(err)
	}
	if got := names(t, dir); len(got) != 2 || got[0] != "a" || got[1] != "b" {
		t.Errorf("standing: %v; the wrapper of c lives", got)
	}
	if _, found, err := Mark(dir, "pod", "a"); found || err != nil {
		t.Errorf("marked before it was let go: %v, %v", found, err)
	}

	at := time.Now()
	if err := LetGo(dir, "pod", "a", "c1", at); err != nil {
		t.Fatal(err)
	}
	m, found, err := Mark(dir, "pod", "a")
	if err != nil || !found || !m.Frozen || !m.LetGo || m.LetGoAt == nil || !m.LetGoAt.Equal(at) || m.Result == nil || m.Result.PID != 7 {
		t.Errorf("mark %+v, %v, %v", m, found, err)
	}
	if got := names(t, dir); len(got) != 1 || got[0] != "b" {
		t.Errorf("standing: %v", got)
	}
	// An agent that was restarted does it again; the first time counts.
	if err := LetGo(dir, "pod", "a", "c1", at.Add(time.Hour)); err != nil {
		t.Errorf("again: %v", err)
	}
	if m, _, _ := Mark(dir, "pod", "a"); m.LetGoAt == nil || !m.LetGoAt.Equal(at) {
		t.Errorf("mark %+v", m)
	}
	if err := LetGo(dir, "pod", "x", "c1", at); err == nil {
		t.Error("a container that nobody knows was let go")
	}
}

func TestWhatStoodStillAndIsGone(t *testing.T) {
	dir := t.TempDir()
	standing(t, dir, "a")
	all, err := AllStanding(dir)
	if err != nil || len(all) != 1 {
		t.Fatalf("%v, %v", all, err)
	}
	if err := all[0].Ended(dir); err != nil {
		t.Fatal(err)
	}
	if got := names(t, dir); len(got) != 0 {
		t.Errorf("standing: %v", got)
	}
	if h, err := Holds(dir, "pod", "a"); err != nil || len(h) != 1 || !h[0].Cleared {
		t.Errorf("holds %+v, %v", h, err)
	}
}
