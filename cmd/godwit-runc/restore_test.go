// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/internal/wire"
)

func TestCreateBecomesRestore(t *testing.T) {
	r := newRig(t, "ok")
	results, _ := r.agent(r.order(10 * time.Second))
	must(t, r.w.Exec(r.create()))
	pid := r.pidIn("pid")
	if len(r.rec.forwarded) != 0 {
		t.Errorf("forwarded %q", r.rec.forwarded)
	}
	res, ok := <-results
	if !ok || res.Error != "" || res.PID != pid || res.Duration <= 0 || res.Start.IsZero() {
		t.Errorf("the agent was told %+v", res)
	}
	for _, want := range []string{
		"restore --detach --no-subreaper", "--image-path " + r.dir + "/images", "--work-path " + r.dir + "/work",
		"CRIU's configuration: tcp-close\naction-script /",
		// The mark is there before CRIU takes the processes in hand, and not sooner.
		"post-restore: " + r.w.runDir + "/creates/" + testPod + "/app/" + testID + " \npre-resume: " + r.w.runDir + "/restored/" + testPod + "/app \n",
		"post-resume: " + r.w.runDir + "/restored/" + testPod + "/app \n",
		// The hold, so that it ends only with runc.
		"huge pages: THP_enabled:\t0",
		"descriptor 3 is " + r.w.runDir + "/creates/",
	} {
		if !strings.Contains(r.calls(), want) {
			t.Errorf("no %q in %s", want, r.calls())
		}
	}
	if mark, ok, err := wire.Restored(r.w.runDir, testPod, "app"); !ok || err != nil || mark == nil || mark.PID != pid || mark.Duration <= 0 {
		t.Errorf("mark: %+v, %v, %v", mark, ok, err)
	}
	if h := r.holds(); len(h) != 0 {
		t.Errorf("holds: %+v", h)
	}
	if exists(r.w.restoringPath(testID)) {
		t.Error("the record of the restore is still there")
	}

	// Its start does nothing, once.
	must(t, r.w.Exec(r.args("start", testID)))
	if len(r.rec.forwarded) != 0 {
		t.Errorf("start was forwarded: %q", r.rec.forwarded)
	}
	must(t, r.w.Exec(r.args("start", testID)))
	if len(r.rec.forwarded) != 1 {
		t.Error("a second start was not left to runc")
	}
	st, err := readStat(pid)
	if err != nil || st.state == 'Z' {
		t.Errorf("the restored process: %+v, %v", st, err)
	}
}

func TestStartOfAContainerThatEndedFails(t *testing.T) {
	r := newRig(t, "ok")
	r.agent(r.order(10 * time.Second))
	must(t, r.w.Exec(r.create()))
	pid := r.pidIn("pid")
	must(t, syscall.Kill(pid, syscall.SIGKILL))
	gone(t, pid)
	if err := r.w.Exec(r.args("start", testID)); !errors.Is(err, errStopped) || len(r.rec.forwarded) != 0 {
		t.Errorf("%v, forwarded %q", err, r.rec.forwarded)
	}
}

// The processes ran: the agent must not believe that the source may go on.
func TestProcessThatEndsAtOnceWasRestoredAllTheSame(t *testing.T) {
	r := newRig(t, "ended")
	results, _ := r.agent(r.order(10 * time.Second))
	must(t, r.w.Exec(r.create()))
	if res := <-results; res.Error != "" || res.PID == 0 {
		t.Errorf("the agent was told %+v", res)
	}
	if err := r.w.Exec(r.args("start", testID)); !errors.Is(err, errStopped) {
		t.Errorf("start: %v", err)
	}
}

func TestFailedRestoreLeavesNothing(t *testing.T) {
	for _, fake := range []string{"fail", "nopid"} {
		t.Run(fake, func(t *testing.T) {
			r := newRig(t, fake)
			results, _ := r.agent(r.order(10 * time.Second))
			err := r.w.Exec(r.create())
			if !errors.Is(err, errRestore) || len(r.rec.forwarded) != 0 {
				t.Fatalf("%v, forwarded %q", err, r.rec.forwarded)
			}
			res := <-results
			if res.Error == "" || res.PID != 0 {
				t.Errorf("the agent was told %+v", res)
			}
			if fake == "fail" {
				for _, want := range []string{"criu failed: type RESTORE", "[criu: two | (00.1) Error (criu/x.c:1): cannot open pages | four | (00.2) Error (criu/cr-restore.c:2): Restoring FAILED.]"} {
					if !strings.Contains(res.Error, want) {
						t.Errorf("%q is not in %q", want, res.Error)
					}
				}
			}
			if !strings.Contains(r.calls(), "delete --force "+testID) {
				t.Errorf("runc was not told to delete: %s", r.calls())
			}
			for _, p := range []string{r.dir + "/root/" + testID, r.w.restoringPath(testID)} {
				if exists(p) {
					t.Errorf("%s is still there", p)
				}
			}
			if _, ok, err := wire.Mark(r.w.runDir, testPod, "app"); ok || err != nil {
				t.Errorf("marked: %v, %v", ok, err)
			}
			// An agent that was not told finds it out.
			if h := r.holds(); len(h) != 1 || h[0].Alive || !h[0].Ordered || !h[0].Cleared || h[0].Error != res.Error {
				t.Errorf("holds: %+v", h)
			}
		})
	}
}

// CRIU is ended first, so that runc can take its mounts away by itself.
func TestRestoreThatHangsIsEnded(t *testing.T) {
	r := newRig(t, "hang")
	r.useCgroup()
	results, _ := r.agent(r.order(300 * time.Millisecond))
	start := time.Now()
	err := r.w.Exec(r.create())
	if !errors.Is(err, errRestore) || !errors.Is(err, errDeadline) {
		t.Fatalf("got %v", err)
	}
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("it took %v", d)
	}
	if res := <-results; !strings.Contains(res.Error, "not finished in time (300ms) [criu was at: (01.2) pie: 1: Restoring]") {
		t.Errorf("the agent was told %+v", res)
	}
	gone(t, r.pidIn("criu"))
	if !strings.Contains(r.calls(), "runc saw criu end") {
		t.Error("runc had no chance to clean up")
	}
}

func TestRuncThatDoesNotEndIsKilled(t *testing.T) {
	r := newRig(t, "stuck")
	r.useCgroup()
	r.w.limits.cleanup = 500 * time.Millisecond
	r.agent(r.order(300 * time.Millisecond))
	if err := r.w.Exec(r.create()); !errors.Is(err, errDeadline) {
		t.Fatalf("got %v", err)
	}
	gone(t, r.pidIn("criu"))
	if exists(r.dir + "/root/" + testID) {
		t.Error("the state is still there")
	}
	if err := awaitEmpty(r.cgroup, 0); err != nil {
		t.Error(err)
	}
}

// A process that got into the cgroup of a restore that failed is ended.
func TestFailedRestoreEmptiesTheCgroup(t *testing.T) {
	r := newRig(t, "nopid")
	r.useCgroup()
	must(t, os.WriteFile(filepath.Join(r.dir, "runc"), []byte(strings.Replace(fakeRunc, "nopid) ;;",
		`nopid) criu; until grep -qs . "$CGROUP/cgroup.procs"; do :; done ;;`, 1)), 0o700))
	results, _ := r.agent(r.order(10 * time.Second))
	if err := r.w.Exec(r.create()); !errors.Is(err, errRestore) {
		t.Fatalf("got %v", err)
	}
	if res := <-results; res.Error == "" {
		t.Error("the agent was not told")
	}
	gone(t, r.pidIn("criu"))
	if exists(r.cgroup) {
		t.Error("the empty cgroup is still there")
	}
}

// mountIn mounts a directory elsewhere, as runc does with volumes.
func mountIn(t *testing.T, source, target string) {
	t.Helper()
	must(t, os.MkdirAll(target, 0o700))
	if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
		t.Skipf("cannot mount: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(target, unix.MNT_DETACH) })
}

// runc delete removes the state directory with all that is below it. When runc
// was killed in the middle of a restore, the volumes may be mounted there.
func TestDeleteDoesNotReachVolumesThroughAKilledRestore(t *testing.T) {
	r := newRig(t, "ok")
	volume := t.TempDir()
	must(t, os.WriteFile(filepath.Join(volume, "precious"), []byte("data"), 0o600))
	state, rootfs := r.dir+"/root/"+testID, r.dir+"/bundle/rootfs"
	mountIn(t, rootfs, state+"/criu-root")
	mountIn(t, volume, state+"/criu-root/volume")
	mountIn(t, volume, rootfs+"/volume")
	must(t, writeMarkIn(r.w.restoringPath(testID), &restoring{Cgroup: r.w.cgroupRoot + "/ctr", StateDir: state, Rootfs: rootfs}))

	args := r.args("delete", "--force", testID)
	must(t, r.w.Exec(args))
	if len(r.rec.forwarded) != 1 {
		t.Fatalf("forwarded %q", r.rec.forwarded)
	}
	// What runc does next.
	must(t, os.RemoveAll(state))
	if b, err := os.ReadFile(filepath.Join(volume, "precious")); err != nil || string(b) != "data" {
		t.Errorf("the volume: %q, %v", b, err)
	}
	if found, err := mountsBelow(state, rootfs); err != nil || len(found) > 0 {
		t.Errorf("still mounted: %q, %v", found, err)
	}
	if exists(r.w.restoringPath(testID)) {
		t.Error("the record is still there")
	}
}

func TestDeleteThatCannotClearAwayIsNotForwarded(t *testing.T) {
	r := newRig(t, "ok")
	must(t, os.MkdirAll(filepath.Dir(r.w.restoringPath(testID)), 0o700))
	must(t, os.WriteFile(r.w.restoringPath(testID), []byte("{broken"), 0o600))
	if err := r.w.Exec(r.args("delete", "--force", testID)); err == nil || len(r.rec.forwarded) != 0 {
		t.Errorf("%v, forwarded %q", err, r.rec.forwarded)
	}
}

func TestDeleteOfARestoredContainerEndsNothing(t *testing.T) {
	r := newRig(t, "ok")
	r.useCgroup()
	r.agent(r.order(10 * time.Second))
	must(t, r.w.Exec(r.create()))
	pid := r.pidIn("pid")
	// As if the wrapper had ended just before it took the record away.
	must(t, writeMarkIn(r.w.restoringPath(testID), &restoring{Cgroup: r.cgroup, StateDir: r.dir + "/root/" + testID, Rootfs: r.dir + "/bundle/rootfs"}))
	must(t, r.w.Exec(r.args("delete", testID)))
	if st, err := readStat(pid); err != nil || st.state == 'Z' {
		t.Errorf("the container was ended: %+v, %v", st, err)
	}
	if len(r.rec.forwarded) != 1 || exists(r.w.restoringPath(testID)) {
		t.Errorf("forwarded %q", r.rec.forwarded)
	}
}

func TestCgroupDir(t *testing.T) {
	for _, tc := range []struct {
		path    string
		systemd bool
		want    string
	}{
		{"kubepods-burstable-pod1_2.slice:cri-containerd:abc", true,
			"/cg/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice/cri-containerd-abc.scope"},
		{"system.slice:runc:abc", true, "/cg/system.slice/runc-abc.scope"},
		{"-.slice:runc:abc", true, "/cg/runc-abc.scope"},
		{"/kubepods/pod1/abc", false, "/cg/kubepods/pod1/abc"},
		{"../../etc", false, "/cg/etc"},
		{"", true, ""}, {"", false, ""},
		{"a:b", true, ""}, {"a.slice:b:", true, ""}, {"a--b.slice:c:d", true, ""}, {"a:b:c", true, ""}, {"../x.slice:b:c", true, ""},
	} {
		got, err := cgroupDir("/cg", tc.path, tc.systemd)
		if got != tc.want || (err != nil) != (tc.want == "") {
			t.Errorf("%q: got %q, %v", tc.path, got, err)
		}
	}
}

// What was let go has run, whatever comes after it: the mark stays, and says how
// it ended, to whoever looks.
func TestFailureAfterTheProcessesWereLetGoLeavesTheMark(t *testing.T) {
	for _, fake := range []string{"late", "lethang"} {
		t.Run(fake, func(t *testing.T) {
			r := newRig(t, fake)
			r.useCgroup()
			r.w.limits.cleanup = 500 * time.Millisecond
			results, _ := r.agent(r.order(2 * time.Second))
			if err := r.w.Exec(r.create()); !errors.Is(err, errRestore) || len(r.rec.forwarded) != 0 {
				t.Fatalf("%v, forwarded %q", err, r.rec.forwarded)
			}
			res := <-results
			mark, found, err := wire.Mark(r.w.runDir, testPod, "app")
			if err != nil || !found || mark.Alive || mark.Error == "" || mark.Error != res.Error || !mark.Cleared || mark.Result != nil || mark.ContainerID != testID {
				t.Errorf("mark %+v, %v, %v; told %+v", mark, found, err, res)
			}
			if h := r.holds(); len(h) != 0 {
				t.Errorf("holds %+v", h)
			}
			// It may have run: without an agent nothing starts afresh.
			if err := r.w.Exec(r.create()); err == nil || len(r.rec.forwarded) != 0 {
				t.Errorf("%v, forwarded %q", err, r.rec.forwarded)
			}
		})
	}
}

// CRIU fails when the processes are complete and not let go: if it says so itself,
// it has ended them, and nothing has run; if it was killed, they may have.
func TestFailureBetweenTheMarkAndTheRun(t *testing.T) {
	for fake, marked := range map[string]bool{"gaveup": false, "killed": true} {
		t.Run(fake, func(t *testing.T) {
			r := newRig(t, fake)
			r.useCgroup()
			results, _ := r.agent(r.order(2 * time.Second))
			if err := r.w.Exec(r.create()); !errors.Is(err, errRestore) || len(r.rec.forwarded) != 0 {
				t.Fatalf("%v, forwarded %q", err, r.rec.forwarded)
			}
			res := <-results
			mark, found, err := wire.Mark(r.w.runDir, testPod, "app")
			if err != nil || found != marked {
				t.Fatalf("mark %+v, %v, %v", mark, found, err)
			}
			s := mark
			if !marked {
				h := r.holds()
				if len(h) != 1 {
					t.Fatalf("holds %+v", h)
				}
				s = h[0]
			}
			if s.LetGo || s.Alive || !s.Cleared || !s.Ordered || s.Error == "" || s.Error != res.Error {
				t.Errorf("it says %+v; told %+v", s, res)
			}
		})
	}
}

// The wrapper and its runc are killed between the mark and runc's end. Their
// delete ends what was let go, and says so in the mark.
func TestDeleteAfterAWrapperThatWasKilledPastTheMark(t *testing.T) {
	r := newRig(t, "ok")
	r.useCgroup()
	h, err := wire.TakeHold(r.w.runDir, &wire.Request{PodUID: testPod, ContainerName: "app", ContainerID: testID})
	must(t, err)
	must(t, h.Ordered())
	must(t, writeMarkIn(r.w.restoringPath(testID), &restoring{Cgroup: r.cgroup, StateDir: r.dir + "/root/" + testID, Rootfs: r.dir + "/bundle/rootfs", Hold: h.Path(), Mark: h.MarkPath()}))
	must(t, wire.MarkRun(h.Path(), h.MarkPath()))
	r.w.limits.cleanup = 200 * time.Millisecond
	if err := r.w.Exec(r.args("delete", "--force", testID)); !errors.Is(err, wire.ErrHeld) || len(r.rec.forwarded) != 0 {
		t.Fatalf("while it is held: %v, forwarded %q", err, r.rec.forwarded)
	}
	must(t, h.Release())
	must(t, r.w.Exec(r.args("delete", "--force", testID)))
	if mark, found, err := wire.Mark(r.w.runDir, testPod, "app"); err != nil || !found || !mark.Cleared {
		t.Errorf("mark %+v, %v, %v", mark, found, err)
	}
}

// CRIU lets the processes go whatever its script says: what cannot be marked is
// ended instead.
func TestProcessesThatCannotBeMarkedDoNotRun(t *testing.T) {
	r := newRig(t, "ok")
	victim := exec.CommandContext(t.Context(), "sleep", "300")
	must(t, victim.Start())
	for action, want := range map[string]int{postRestore: 1, "network-unlock": 0, preResume: 1} {
		t.Setenv(envHold, filepath.Join(r.dir, "nothing"))
		t.Setenv(envMark, filepath.Join(r.dir, "nowhere", "mark"))
		t.Setenv(envCgroup, filepath.Join(r.dir, "no-cgroup"))
		t.Setenv(envInit, strconv.Itoa(victim.Process.Pid))
		if got := script(action); got != want {
			t.Errorf("%s: exit status %d", action, got)
		}
	}
	var exit *exec.ExitError
	if err := victim.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("the init process: %v", err)
	}
}

// A wrapper that was installed without the script does its work by itself.
func TestActionScriptIsBesideTheWrapper(t *testing.T) {
	dir := t.TempDir()
	self, script := filepath.Join(dir, "godwit-runc"), filepath.Join(dir, wire.ActionScriptName)
	if got := actionScript(self); got != self {
		t.Errorf("without a script: %s", got)
	}
	must(t, os.WriteFile(script, []byte(wire.ActionScript), 0o700))
	if got := actionScript(self); got != script {
		t.Errorf("with a script: %s", got)
	}
}
