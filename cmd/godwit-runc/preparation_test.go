// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"godwit.dev/godwit/internal/wire"
)

// restores counts the calls of runc's restore.
func (r *rig) restores() int { return strings.Count(r.calls(), " restore --detach ") }

// clean fails the test if anything of a create is left.
func (r *rig) clean() {
	r.t.Helper()
	if h := r.holds(); len(h) != 0 {
		r.t.Errorf("holds: %+v", h)
	}
	for _, left := range []string{r.w.restoringPath(testID), r.dir + "/root/" + testID} {
		if exists(left) {
			r.t.Errorf("%s is still there", left)
		}
	}
}

func TestPreparedRestore(t *testing.T) {
	r := newRig(t, "ok")
	results, _ := r.agent(wire.Reply{Verdict: wire.Park}, r.prepare(), r.prepare(), r.order(10*time.Second))
	must(t, r.w.Exec(r.create()))
	pid := r.pidIn("pid")
	if res := <-results; res.Error != "" || res.PID != pid {
		t.Errorf("the agent was told %+v", res)
	}
	if n := r.restores(); n != 1 || !strings.Contains(r.calls(), "told: go\n") {
		t.Errorf("%d restores: %s", n, r.calls())
	}
	if mark, ok, err := wire.Restored(r.w.runDir, testPod, "app"); !ok || err != nil || mark == nil || mark.PID != pid {
		t.Errorf("mark: %+v, %v, %v", mark, ok, err)
	}
	if exists(r.w.restoringPath(testID)) {
		t.Error("the record of the restore is still there")
	}
	self, err := os.Executable()
	must(t, err)
	if link, err := os.Readlink(r.dir + "/work/stand-in/criu"); link != self || err != nil {
		t.Errorf("in CRIU's place is %q, %v", link, err)
	}
}

// The agent hears when runc has come to rest, well or not.
func TestAgentIsToldOfThePreparation(t *testing.T) {
	for fake, fails := range map[string]bool{"ok": false, "unprepared": true} {
		t.Run(fake, func(t *testing.T) {
			r := newRig(t, fake)
			l, err := wire.Listen(r.w.runDir)
			must(t, err)
			defer l.Close()
			done := make(chan error, 1)
			go func() { done <- r.w.Exec(r.create()) }()
			conn, err := l.Accept()
			must(t, err)
			defer conn.Close()
			in := wire.NewReader(conn)
			must(t, in.Read(&wire.Request{}))
			send := func(reply wire.Reply) {
				reply.Version = wire.Version
				must(t, wire.Write(conn, &reply))
			}
			send(wire.Reply{Verdict: wire.Park})
			send(r.prepare())
			var res wire.Result
			must(t, in.Read(&res))
			if !res.Prepared || (res.Error != "") != fails || exists(r.dir+"/root/"+testID) == fails {
				t.Errorf("told %+v", res)
			}
			if h := r.holds(); len(h) != 1 || h[0].Ordered || !h[0].Alive {
				t.Errorf("hold: %+v", h)
			}
			send(wire.Reply{Verdict: wire.Fail, Reason: "Cancelled"})
			if err := <-done; !errors.Is(err, errRefused) {
				t.Error(err)
			}
			r.clean()
		})
	}
}

// A preparation is a help and no condition.
func TestRestoreWithoutThePreparation(t *testing.T) {
	for name, tc := range map[string]struct {
		fake string
		dir  string // of what is prepared
	}{
		"that has failed":     {"unprepared", "images"},
		"of other images":     {"ok", "other"},
		"of none":             {"ok", ""},
		"that cannot be made": {"ok", "relative"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, tc.fake)
			prepare := r.prepare()
			switch tc.dir {
			case "":
				prepare.Images = nil
			case "relative":
				prepare.Images.Dir = tc.dir
			default:
				prepare.Images.Dir = filepath.Join(r.dir, tc.dir)
			}
			results, _ := r.agent(wire.Reply{Verdict: wire.Park}, prepare, r.order(10*time.Second))
			must(t, r.w.Exec(r.create()))
			pid := r.pidIn("pid")
			if res := <-results; res.Error != "" || res.PID != pid {
				t.Errorf("the agent was told %+v", res)
			}
			if last := r.calls()[strings.LastIndex(r.calls(), " restore --detach "):]; !strings.Contains(last, "--image-path "+r.dir+"/images") || strings.Contains(last, "told:") {
				t.Errorf("restored by %s", last)
			}
			if exists(r.w.restoringPath(testID)) {
				t.Error("the record of the restore is still there")
			}
		})
	}
}

// An order does not wait for longer than it says, for the source stands still.
func TestOrderDoesNotWaitForAPreparationThatHangs(t *testing.T) {
	r := newRig(t, "hang")
	r.useCgroup()
	r.w.limits.cleanup = 500 * time.Millisecond
	results, _ := r.agent(wire.Reply{Verdict: wire.Park}, r.prepare(), r.order(300*time.Millisecond))
	start := time.Now()
	if err := r.w.Exec(r.create()); !errors.Is(err, errRestore) || !errors.Is(err, errDeadline) {
		t.Fatalf("got %v", err)
	}
	if d := time.Since(start); d > r.w.limits.park/2 {
		t.Errorf("it took %v", d)
	}
	for res := range results {
		if !res.Prepared && res.Error == "" {
			t.Errorf("the agent was told %+v", res)
		}
	}
	gone(t, r.pidIn("criu"))
	if h := r.holds(); len(h) != 1 || h[0].Alive || !h[0].Ordered || !h[0].Cleared || h[0].Error == "" {
		t.Errorf("holds: %+v", h)
	}
	if exists(r.w.restoringPath(testID)) {
		t.Error("the record of the restore is still there")
	}
}

func TestWhatWasPreparedIsClearedAway(t *testing.T) {
	for name, tc := range map[string]struct {
		replies []wire.Reply
		want    error
	}{
		"refused":        {[]wire.Reply{{Verdict: wire.Fail}}, errRefused},
		"passed":         {[]wire.Reply{{Verdict: wire.Pass}}, errRefused},
		"agent is gone":  {nil, errParked},
		"unknown answer": {[]wire.Reply{{Verdict: "resurrect"}}, errRefused},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, "ok")
			r.w.limits.park = 2 * time.Second
			r.agent(append([]wire.Reply{{Verdict: wire.Park}, r.prepare()}, tc.replies...)...)
			if err := r.w.Exec(r.create()); !errors.Is(err, tc.want) || len(r.rec.forwarded) != 0 {
				t.Errorf("%v, forwarded %q", err, r.rec.forwarded)
			}
			if r.restores() != 1 || strings.Contains(r.calls(), "told: go") {
				t.Errorf("calls: %s", r.calls())
			}
			r.clean()
		})
	}
}

// A wrapper that is killed while it waits takes what it has prepared with it.
func TestKilledWrapperLeavesNothingPrepared(t *testing.T) {
	r := newRig(t, "ok")
	cmd, conn := r.startCreate()
	in := wire.NewReader(conn)
	must(t, in.Read(&wire.Request{}))
	for _, reply := range []wire.Reply{{Verdict: wire.Park}, r.prepare()} {
		reply.Version = wire.Version
		must(t, wire.Write(conn, &reply))
	}
	var res wire.Result
	must(t, in.Read(&res))
	if !res.Prepared || res.Error != "" {
		t.Fatalf("told %+v", res)
	}
	must(t, cmd.Process.Kill())
	_ = cmd.Wait()
	if err := in.Read(&res); err != io.EOF {
		t.Fatalf("the agent heard %v", err)
	}
	waitFor(t, func() bool { h := r.holds(); return len(h) == 1 && !h[0].Alive })
	if h := r.holds(); h[0].Ordered {
		t.Errorf("hold: %+v", h)
	}
	if strings.Contains(r.calls(), "told: go") {
		t.Errorf("calls: %s", r.calls())
	}
	// containerd calls delete next.
	must(t, r.w.Exec(r.args("delete", "--force", testID)))
	if exists(r.w.restoringPath(testID)) {
		t.Error("the record of the restore is still there")
	}
}

// The next agent takes up what an earlier one has had prepared.
func TestPreparationOutlivesTheAgent(t *testing.T) {
	r := newRig(t, "ok")
	r.w.limits.park = 20 * time.Second
	first, _ := r.agent(wire.Reply{Verdict: wire.Park}, r.prepare())
	done := make(chan error, 1)
	go func() { done <- r.w.Exec(r.create()) }()
	<-first // it has hung up
	results, requests := r.agent(wire.Reply{Verdict: wire.Park}, r.prepare(), r.order(10*time.Second))
	if req := <-requests; !req.Parked {
		t.Errorf("asked again with %+v", req)
	}
	must(t, <-done)
	pid := r.pidIn("pid")
	if res := <-results; res.Error != "" || res.PID != pid || r.restores() != 1 {
		t.Errorf("the agent was told %+v after %s", res, r.calls())
	}
}
