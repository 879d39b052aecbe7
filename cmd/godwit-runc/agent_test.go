// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"godwit.dev/godwit/internal/wire"
)

// served is an agent as far as a test plays it.
type served struct {
	t *testing.T
	l *wire.Listener
}

func (r *rig) serve() *served {
	r.t.Helper()
	l, err := wire.Listen(r.w.runDir)
	must(r.t, err)
	r.t.Cleanup(func() { _ = l.Close() })
	return &served{r.t, l}
}

// asked takes the next conversation and its request.
func (s *served) asked() (*net.UnixConn, *wire.Reader, wire.Request) {
	s.t.Helper()
	conn, err := s.l.Accept()
	must(s.t, err)
	s.t.Cleanup(func() { _ = conn.Close() })
	must(s.t, conn.SetDeadline(time.Now().Add(10*time.Second)))
	in, req := wire.NewReader(conn), wire.Request{}
	must(s.t, in.Read(&req))
	return conn, in, req
}

func (s *served) say(conn *net.UnixConn, reply wire.Reply) {
	s.t.Helper()
	reply.Version = wire.Version
	must(s.t, wire.Write(conn, &reply))
}

// stop is what an agent that is replaced does: all its connections end.
func (s *served) stop(conn *net.UnixConn) {
	_ = s.l.Close()
	_ = conn.Close()
}

func (r *rig) start() <-chan error {
	done := make(chan error, 1)
	go func() { done <- r.w.Exec(r.create()) }()
	return done
}

func TestParkedCreateSurvivesRestartsOfTheAgent(t *testing.T) {
	r := newRig(t, "ok")
	r.w.limits.agent = time.Millisecond // parked, it waits for longer than that
	first := r.serve()
	done := r.start()
	conn, _, req := first.asked()
	if req.Parked {
		t.Errorf("the first request says that it was parked: %+v", req)
	}
	first.say(conn, wire.Reply{Verdict: wire.Park})
	waited := req.Waited
	for range 2 {
		first.stop(conn)
		// It looks for the agent while none is there.
		select {
		case err := <-done:
			t.Fatalf("the create ended with its agent: %v", err)
		case <-time.After(3 * retryInterval):
		}
		if h := r.holds(); len(h) != 1 || !h[0].Alive || h[0].Ordered {
			t.Errorf("holds: %+v", h)
		}
		first = r.serve()
		var again wire.Request
		conn, _, again = first.asked()
		if !again.Parked || again.Waited <= waited {
			t.Errorf("it did not say that it was parked, or for how long: %+v after %v", again, waited)
		}
		waited, again.Waited, again.Parked = again.Waited, req.Waited, false
		if again != req {
			t.Errorf("it is another request: %+v, not %+v", again, req)
		}
		first.say(conn, wire.Reply{Verdict: wire.Park})
	}
	first.say(conn, r.order(10*time.Second))
	must(t, <-done)
	r.pidIn("pid")
}

func TestCreateThatAsksAgainCanBeOrderedAtOnce(t *testing.T) {
	r := newRig(t, "ok")
	a := r.serve()
	done := r.start()
	conn, _, _ := a.asked()
	a.say(conn, wire.Reply{Verdict: wire.Park})
	_ = conn.Close()
	conn, in, _ := a.asked()
	a.say(conn, r.order(10*time.Second))
	var res wire.Result
	must(t, in.Read(&res))
	must(t, <-done)
	if pid := r.pidIn("pid"); res.PID != pid {
		t.Errorf("told %+v", res)
	}
}

func TestCreateParkedBeforeARollbackFails(t *testing.T) {
	for _, verdict := range []wire.Verdict{wire.Fail, wire.Pass, "resurrect"} {
		t.Run(string(verdict), func(t *testing.T) {
			r := newRig(t, "ok")
			a := r.serve()
			done := r.start()
			conn, _, _ := a.asked()
			a.say(conn, wire.Reply{Verdict: wire.Park})
			_ = conn.Close()
			conn, _, _ = a.asked()
			a.say(conn, wire.Reply{Verdict: verdict})
			if err := <-done; !errors.Is(err, errRefused) || len(r.rec.forwarded) != 0 || r.calls() != "" {
				t.Errorf("%v, forwarded %q, called %s", err, r.rec.forwarded, r.calls())
			}
			if h := r.holds(); len(h) != 0 {
				t.Errorf("holds: %+v", h)
			}
		})
	}
}

// Whatever the agent does, or does not do, a parked create ends in time.
func TestParkingHasAnEnd(t *testing.T) {
	for name, play := range map[string]func(*served, chan struct{}){
		"the agent hangs": func(a *served, end chan struct{}) {
			conn, _, _ := a.asked()
			a.say(conn, wire.Reply{Verdict: wire.Park})
			<-end
		},
		"the next agent hangs": func(a *served, end chan struct{}) {
			conn, _, _ := a.asked()
			a.say(conn, wire.Reply{Verdict: wire.Park})
			_ = conn.Close()
			a.asked()
			<-end
		},
		"no agent comes": func(a *served, _ chan struct{}) {
			conn, _, _ := a.asked()
			a.say(conn, wire.Reply{Verdict: wire.Park})
			a.stop(conn)
		},
		"agents hang up again and again": func(a *served, _ chan struct{}) {
			for {
				conn, err := a.l.Accept()
				if err != nil {
					return
				}
				_ = wire.Write(conn, &wire.Reply{Version: wire.Version, Verdict: wire.Park})
				_ = conn.Close()
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, "ok")
			r.w.limits.park = 500 * time.Millisecond
			a := r.serve()
			end, played := make(chan struct{}), make(chan struct{})
			done := r.start()
			go func() { defer close(played); play(a, end) }()
			start := time.Now()
			err := <-done
			close(end)
			_ = a.l.Close()
			<-played
			if !errors.Is(err, errParked) || !strings.Contains(err.Error(), "none within 500ms") || len(r.rec.forwarded) != 0 || r.calls() != "" {
				t.Errorf("%v, forwarded %q, called %s", err, r.rec.forwarded, r.calls())
			}
			if d := time.Since(start); d > 5*time.Second {
				t.Errorf("it took %v", d)
			}
			if h := r.holds(); len(h) != 0 {
				t.Errorf("holds: %+v", h)
			}
		})
	}
}

// All that a create can take has to fit into kubelet's two minutes.
func TestLimitsKeepWithinKubeletsPatience(t *testing.T) {
	l := defaultLimits
	const stop, clear = 3, 3 // steps of stop and clear, each of limits.cleanup
	if worst := l.create + (stop+clear)*l.cleanup; worst > 120*time.Second {
		t.Errorf("a restore that hangs is cleared away only after %v", worst)
	}
	if l.park >= l.create || l.create-l.park < 20*time.Second {
		t.Errorf("an order in the last moment of parking leaves %v", l.create-l.park)
	}
	if worst := l.park + l.answer; worst > 110*time.Second {
		t.Errorf("a parked create ends only after %v", worst)
	}
}

func TestResultReachesTheNextAgent(t *testing.T) {
	for _, fake := range []string{"ok", "fail"} {
		t.Run(fake, func(t *testing.T) {
			r := newRig(t, fake)
			a := r.serve()
			done := r.start()
			conn, _, req := a.asked()
			a.say(conn, r.order(10*time.Second))
			a.stop(conn)
			a = r.serve()
			conn, _, told := a.asked()
			a.say(conn, wire.Reply{Verdict: wire.Noted})
			err := <-done
			if (err == nil) != (fake == "ok") {
				t.Fatalf("create: %v", err)
			}
			if told.Result == nil || (told.Result.Error == "") != (fake == "ok") || (told.Result.PID > 0) != (fake == "ok") || told.Result.Duration <= 0 {
				t.Fatalf("told %+v", told.Result)
			}
			if told.ContainerID != req.ContainerID || told.PodUID != testPod || told.ContainerName != "app" {
				t.Errorf("told for %+v", told)
			}
			if fake == "ok" {
				r.pidIn("pid")
			}
		})
	}
}

// The create's outcome does not depend on anybody having been told.
func TestRestoreWithoutAnAgentToTell(t *testing.T) {
	r := newRig(t, "ok")
	r.w.limits.report = 100 * time.Millisecond
	a := r.serve()
	done := r.start()
	conn, _, _ := a.asked()
	a.say(conn, r.order(10*time.Second))
	a.stop(conn)
	must(t, <-done)
	pid := r.pidIn("pid")
	if mark, found, err := wire.Restored(r.w.runDir, testPod, "app"); err != nil || !found || mark.PID != pid {
		t.Errorf("mark %+v, %v, %v", mark, found, err)
	}
}

// runc or criu killed under the wrapper: the restore has failed, nothing of it
// is left, and the node says so.
func TestRestoreKilledUnderTheWrapper(t *testing.T) {
	for _, who := range []string{"runc", "criu"} {
		t.Run(who, func(t *testing.T) {
			r := newRig(t, "hang")
			r.useCgroup()
			results, _ := r.agent(r.order(time.Minute))
			done := r.start()
			waitFor(t, func() bool { return exists(r.dir+"/criu") && awaitEmpty(r.cgroup, 0) != nil })
			criu := r.pidIn("criu")
			victim := criu
			if who == "runc" {
				var err error
				victim, err = readParent(criu)
				must(t, err)
			}
			must(t, syscall.Kill(victim, syscall.SIGKILL))
			if err := <-done; !errors.Is(err, errRestore) || errors.Is(err, errDeadline) {
				t.Errorf("create: %v", err)
			}
			if res := <-results; !strings.Contains(res.Error, "runc restore") {
				t.Errorf("the agent was told %+v", res)
			}
			gone(t, criu)
			if exists(r.cgroup) || exists(r.dir+"/root/"+testID) || exists(r.w.restoringPath(testID)) {
				t.Error("something is left")
			}
			if h := r.holds(); len(h) != 1 || !h[0].Ordered || !h[0].Cleared || h[0].Alive {
				t.Errorf("holds: %+v", h)
			}
		})
	}
}
