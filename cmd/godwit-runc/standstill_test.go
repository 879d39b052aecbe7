// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"godwit.dev/godwit/internal/wire"
)

// frozenOrder is the agent's order for one of several containers.
func (r *rig) frozenOrder() wire.Reply {
	reply := r.order(20 * time.Second)
	reply.Images.Frozen = true
	return reply
}

// useHome makes the rig's cgroup root the cgroup that CRIU can be moved to.
func (r *rig) useHome() {
	r.t.Helper()
	r.useCgroup()
	if home, err := ownCgroup(r.w.cgroupRoot); err != nil || home != r.w.cgroupRoot {
		r.t.Skipf("this process is not in the root cgroup: %s, %v", home, err)
	}
}

func (r *rig) cgroupProcs() []string {
	b, err := os.ReadFile(r.cgroup + "/cgroup.procs")
	must(r.t, err)
	return strings.Fields(string(b))
}

func TestOneOfSeveralStandsStillAfterItsRestore(t *testing.T) {
	r := newRig(t, "apart")
	r.useHome()
	results, _ := r.agent(r.frozenOrder())
	must(t, r.w.Exec(r.create()))
	pid, criu := r.pidIn("pid"), r.pidIn("criu")
	if res := <-results; res.Error != "" || res.PID != pid {
		t.Errorf("the agent was told %+v", res)
	}
	must(t, awaitFrozen(r.cgroup, time.Second))
	// CRIU is not frozen with it: it would never let the processes go.
	if procs := r.cgroupProcs(); !slices.Equal(procs, []string{strconv.Itoa(pid)}) {
		t.Errorf("in the container's cgroup: %v, want %d; CRIU is %d", procs, pid, criu)
	}
	// Nothing has run, so there is no mark.
	if _, found, err := wire.Mark(r.w.runDir, testPod, "app"); found || err != nil {
		t.Errorf("marked: %v, %v", found, err)
	}
	h := r.holds()
	if len(h) != 1 || h[0].Alive || !h[0].Ordered || !h[0].Frozen || h[0].LetGo || h[0].Error != "" || h[0].Result == nil || h[0].Result.PID != pid {
		t.Fatalf("holds: %+v", h)
	}
	must(t, r.w.Exec(r.args("start", testID)))
	if len(r.rec.forwarded) != 0 {
		t.Errorf("start was forwarded: %q", r.rec.forwarded)
	}

	at := time.Now()
	for range 2 { // as an agent does that was restarted in between
		must(t, wire.LetGo(r.w.runDir, testPod, "app", testID, at))
	}
	m, found, err := wire.Mark(r.w.runDir, testPod, "app")
	if err != nil || !found || !m.LetGo || m.LetGoAt == nil || !m.LetGoAt.Equal(at) || m.Result == nil || m.Result.PID != pid {
		t.Errorf("mark %+v, %v, %v", m, found, err)
	}
	if h := r.holds(); len(h) != 0 {
		t.Errorf("holds: %+v", h)
	}
}

func TestFrozenRestoreThatFailsLeavesNothing(t *testing.T) {
	r := newRig(t, "apartlate")
	r.useHome()
	results, _ := r.agent(r.frozenOrder())
	if err := r.w.Exec(r.create()); !errors.Is(err, errRestore) {
		t.Errorf("create: %v", err)
	}
	r.pidIn("criu")
	if res := <-results; res.Error == "" {
		t.Errorf("the agent was told %+v", res)
	}
	if exists(r.cgroup) || exists(r.dir+"/root/"+testID) {
		t.Error("something is left")
	}
	// It has not run: no mark, and the commit can be taken back.
	if _, found, err := wire.Mark(r.w.runDir, testPod, "app"); found || err != nil {
		t.Errorf("marked: %v, %v", found, err)
	}
	if h := r.holds(); len(h) != 1 || !h[0].Ordered || !h[0].Cleared || h[0].Frozen {
		t.Errorf("holds: %+v", h)
	}
}

// A tree that shares the node's processes cannot be told from CRIU: it is ended
// rather than let go.
func TestWhatCannotBeFrozenIsEnded(t *testing.T) {
	r := newRig(t, "ok")
	r.useHome()
	results, _ := r.agent(r.frozenOrder())
	if err := r.w.Exec(r.create()); !errors.Is(err, errRestore) {
		t.Errorf("create: %v", err)
	}
	if res := <-results; res.Error == "" {
		t.Errorf("the agent was told %+v", res)
	}
	if !strings.Contains(r.calls(), "not in a namespace of its own") {
		t.Errorf("calls: %s", r.calls())
	}
	if exists(r.cgroup) {
		t.Error("something is left")
	}
}
