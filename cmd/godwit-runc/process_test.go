// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"godwit.dev/godwit/internal/wire"
)

func TestExecIsTransparent(t *testing.T) {
	r := newRig(t, "ok")
	must(t, os.WriteFile(r.rec.path, []byte("#!/bin/sh\ncat\necho \"out:$*:$EXTRA\"\necho err >&2\nexit 42\n"), 0o700))
	cmd := r.self(t.Context(), []string{"EXTRA=a b"}, "--root", "/r", "exec", "--process", "p q", testID)
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stderr = strings.NewReader("in\n"), &stderr
	out, err := cmd.Output()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 42 {
		t.Errorf("got %v", err)
	}
	if string(out) != "in\nout:--root /r exec --process p q "+testID+":a b\n" || stderr.String() != "err\n" {
		t.Errorf("stdout %q, stderr %q", out, stderr.String())
	}
}

// Standard output and error are the container's log; containerd shows what it
// finds in the log file.
func TestErrorsGoToTheLogAlone(t *testing.T) {
	r := newRig(t, "ok")
	r.agent(wire.Reply{Verdict: wire.Fail, Reason: "ImageSetInvalid", Message: `digest "x"`})
	out, err := r.self(t.Context(), nil, r.create()...).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 || len(out) != 0 {
		t.Errorf("%v, output %q", err, out)
	}
	if got := r.logged(); !strings.Contains(got, `ImageSetInvalid: digest "x"`) {
		t.Errorf("logged %q", got)
	}
	// In runc's text format, and without a log file on standard error.
	r.agent(wire.Reply{Verdict: wire.Fail, Reason: "Second"})
	text := []string{"--root", r.dir + "/root", "--log", r.dir + "/log.txt"}
	create := []string{"create", "--bundle", r.dir + "/bundle", "--pid-file", r.dir + "/pid", testID}
	out, _ = r.self(t.Context(), nil, append(text, create...)...).CombinedOutput()
	b, err := os.ReadFile(r.dir + "/log.txt")
	if err != nil || !strings.Contains(string(b), "level=error msg=") || !strings.Contains(string(b), "Second") || len(out) != 0 {
		t.Errorf("log %q, %v, output %q", b, err, out)
	}
	r.agent(wire.Reply{Verdict: wire.Fail, Reason: "Third"})
	out, _ = r.self(t.Context(), nil, create...).CombinedOutput()
	if !strings.Contains(string(out), "Third") {
		t.Errorf("output %q", out)
	}
}

// containerd kills the wrapper at its own deadline. Its runc must not go on,
// and the agent must not hear that all is over before that.
func TestKilledWrapperTakesRuncWithIt(t *testing.T) {
	r := newRig(t, "stuck")
	r.useCgroup()
	cmd, conn := r.startCreate()
	order := r.order(time.Minute)
	order.Version = wire.Version
	must(t, wire.Write(conn, &order))
	// Until "CRIU" runs in the container's cgroup.
	waitFor(t, func() bool {
		b, _ := os.ReadFile(filepath.Join(r.cgroup, "cgroup.procs"))
		return len(b) > 0 && exists(filepath.Join(r.dir, "criu"))
	})
	criu := r.pidIn("criu")
	stat, err := readParent(criu)
	must(t, err)
	must(t, cmd.Process.Kill())
	_ = cmd.Wait()

	must(t, conn.SetReadDeadline(time.Now().Add(10*time.Second)))
	in := wire.NewReader(conn)
	must(t, in.Read(&wire.Request{}))
	if err := in.Read(&wire.Result{}); err != io.EOF {
		t.Fatalf("the agent heard %v", err)
	}
	waitFor(t, func() bool { h := r.holds(); return len(h) == 1 && !h[0].Alive })
	// The hold ended: runc has to be gone by now, not only soon.
	if st, err := readStat(stat); err == nil && st.state != 'Z' && st.state != 'X' {
		t.Errorf("runc still runs (%c)", st.state)
	}
	// What is left is in the cgroup, and the record says where.
	rec := &restoring{}
	if found, err := readMark(r.w.restoringPath(testID), rec); !found || err != nil || rec.Cgroup != r.cgroup {
		t.Fatalf("record %+v, %v, %v", rec, found, err)
	}
	if h := r.holds(); !h[0].Ordered || h[0].Cleared || h[0].Error != "" {
		t.Fatalf("hold %+v", h)
	}
	// containerd calls delete next, and removes the bundle.
	must(t, r.w.Exec(r.args("delete", "--force", testID)))
	gone(t, criu)
	if exists(r.cgroup) {
		t.Error("the empty cgroup is still there")
	}
	if h := r.holds(); len(h) != 1 || !h[0].Cleared {
		t.Errorf("the agent cannot tell that nothing is left: %+v", h)
	}
}

// startCreate starts a create as a process of its own, which has connected to the agent.
func (r *rig) startCreate() (*exec.Cmd, net.Conn) {
	r.t.Helper()
	l, err := wire.Listen(r.w.runDir)
	must(r.t, err)
	r.t.Cleanup(func() { _ = l.Close() })
	cmd := r.self(r.t.Context(), nil, r.create()...)
	must(r.t, cmd.Start())
	conn, err := l.Accept()
	must(r.t, err)
	r.t.Cleanup(func() { _ = conn.Close() })
	return cmd, conn
}

// readParent is the parent process's id.
func readParent(pid int) (int, error) {
	out, err := exec.Command("ps", "-o", "ppid=", "-p", strconv.Itoa(pid)).Output()
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(out)))
}

func TestRestoredProcessGetsTheContainersStreams(t *testing.T) {
	r := newRig(t, "ok")
	must(t, os.WriteFile(r.rec.path, []byte(strings.Replace(fakeRunc, "ok | unprepared)", "ok) echo out; echo err >&2; cat", 1)), 0o700))
	results, _ := r.agent(r.order(10 * time.Second))
	cmd := r.self(t.Context(), nil, r.create()...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader("in"), &stdout, &stderr
	must(t, cmd.Run())
	r.pidIn("pid")
	if stdout.String() != "out\nin" || stderr.String() != "err\n" {
		t.Errorf("stdout %q, stderr %q", stdout.String(), stderr.String())
	}
	if res := <-results; res.Error != "" {
		t.Error(res.Error)
	}
}

func TestGateEndsOnlyOnItsSignals(t *testing.T) {
	r := newRig(t, "ok")
	for _, end := range []syscall.Signal{syscall.SIGTERM, syscall.SIGUSR1} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		cmd := r.self(ctx, nil, "gate")
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		must(t, cmd.Start())
		// The kernel shows which signals are ignored and which are caught. Go
		// ignores one after the other, in the order of their numbers, and catches
		// SIGTERM already before: only when one of the last is ignored have all
		// been, and only then does a caught one mean that the gate has named it.
		waitFor(t, func() bool { return sigMask(t, cmd.Process.Pid, "SigIgn:")&(1<<(syscall.SIGPWR-1)) != 0 })
		waitFor(t, func() bool { return sigMask(t, cmd.Process.Pid, "SigCgt:")&(1<<(end-1)) != 0 })
		for _, sig := range []syscall.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGUSR2, syscall.SIGPIPE} {
			must(t, cmd.Process.Signal(sig))
		}
		if st, err := readStat(cmd.Process.Pid); err != nil || st.state == 'Z' {
			t.Errorf("it ended: %+v, %v", st, err)
		}
		must(t, cmd.Process.Signal(end))
		if err := cmd.Wait(); err != nil || out.Len() != 0 {
			t.Errorf("%v: %v, output %q", end, err, out.String())
		}
		cancel()
	}
}

func TestFindRuncNeverFindsItself(t *testing.T) {
	self, err := os.Executable()
	must(t, err)
	a, b := t.TempDir(), t.TempDir()
	must(t, os.Symlink(self, filepath.Join(a, "runc")))
	if got, err := findRunc("", a+":"+b); !errors.Is(err, errNoRunc) {
		t.Errorf("found %v, %v", got, err)
	}
	if got, err := findRunc(self, ""); !errors.Is(err, errNoRunc) {
		t.Errorf("found %v, %v", got, err)
	}
	must(t, os.WriteFile(filepath.Join(b, "runc"), nil, 0o600))
	if got, err := findRunc("", a+":"+b); !errors.Is(err, errNoRunc) {
		t.Errorf("found one that cannot be executed: %v, %v", got, err)
	}
	must(t, os.Chmod(filepath.Join(b, "runc"), 0o700))
	if got, err := findRunc("", "relative:"+a+":"+b); err != nil || got.path != filepath.Join(b, "runc") {
		t.Errorf("found %v, %v", got, err)
	}
}
