// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/node-agent/runtime"
	"godwit.dev/godwit/node-agent/runtime/host"
)

func TestParseEvents(t *testing.T) {
	for _, c := range []struct {
		text string
		want events
		ok   bool
	}{
		{"populated 1\nfrozen 0\n", events{populated: true}, true},
		{"populated 0\nfrozen 1\n", events{frozen: true}, true},
		{"frozen 1\npopulated 1\nnew 7\n", events{populated: true, frozen: true}, true},
		{"populated 1\n", events{}, false},
		{"", events{}, false},
	} {
		got, err := parseEvents([]byte(c.text))
		if (err == nil) != c.ok || c.ok && got != c.want {
			t.Errorf("%q: %+v, %v", c.text, got, err)
		}
	}
}

func control(t *testing.T, o Options) *Control {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: cgroups")
	}
	h, err := host.New(host.Options{InitPID: os.Getpid(), CgroupName: "godwit-test"})
	if err != nil {
		t.Skipf("no node to work on: %v", err)
	}
	t.Cleanup(func() { h.Close() })
	o.Host = h
	return New(o)
}

// group makes a cgroup with a sub-cgroup and a process in each.
func group(t *testing.T) (runtime.Container, []*exec.Cmd) {
	t.Helper()
	dir := filepath.Join(host.CgroupRoot, "godwit-cgroup-test-"+strconv.Itoa(os.Getpid()))
	sub := filepath.Join(dir, "sub")
	if err := os.MkdirAll(sub, 0o755); err != nil {
		t.Fatal(err)
	}
	var cmds []*exec.Cmd
	t.Cleanup(func() {
		for _, c := range cmds {
			_ = c.Process.Kill()
			_ = c.Wait()
		}
		for _, d := range []string{sub, dir} {
			if err := os.Remove(d); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Error(err)
			}
		}
	})
	for _, d := range []string{dir, sub} {
		fd, err := os.Open(d)
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("sleep", "1000")
		cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(fd.Fd())}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		fd.Close()
		cmds = append(cmds, cmd)
	}
	return runtime.Container{ID: "test", CgroupDir: dir, PID: cmds[0].Process.Pid}, cmds
}

func TestFreezeThawKill(t *testing.T) {
	c := control(t, Options{})
	k, cmds := group(t)
	pids, err := c.Processes(k.CgroupDir)
	slices.Sort(pids)
	if err != nil || len(pids) != 2 || !slices.Contains(pids, cmds[1].Process.Pid) {
		t.Fatalf("processes %v, %v", pids, err)
	}
	for _, want := range []bool{true, false, true} {
		if want {
			err = c.Freeze(t.Context(), k)
		} else {
			err = c.Thaw(t.Context(), k)
		}
		if err != nil {
			t.Fatal(err)
		}
		if frozen, err := c.Frozen(t.Context(), k); err != nil || frozen != want {
			t.Fatalf("frozen %t, %v", frozen, err)
		}
		if asked, err := c.FreezeAsked(k); err != nil || asked != want {
			t.Fatalf("asked %t, %v", asked, err)
		}
	}
	if empty, err := c.Empty(k.CgroupDir); err != nil || empty {
		t.Errorf("empty %t, %v", empty, err)
	}
	for range 2 {
		if err := c.Kill(t.Context(), k); err != nil {
			t.Fatal(err)
		}
	}
	if empty, err := c.Empty(k.CgroupDir); err != nil || !empty {
		t.Errorf("empty %t, %v", empty, err)
	}
	if asked, err := c.FreezeAsked(k); err != nil || asked {
		t.Errorf("a killed cgroup stays frozen: %t, %v", asked, err)
	}
	if err := c.Freeze(t.Context(), k); !errors.Is(err, runtime.ErrNotFound) {
		t.Errorf("freeze of an empty cgroup: %v", err)
	}
	if asked, err := c.FreezeAsked(k); err != nil || asked {
		t.Errorf("the cgroup stays frozen: %t, %v", asked, err)
	}
}

func TestSignal(t *testing.T) {
	c := control(t, Options{})
	k, cmds := group(t)
	other := k
	other.PID = os.Getpid() // a process, but not of the container
	if err := c.Signal(t.Context(), other, int(unix.SIGKILL)); !errors.Is(err, runtime.ErrNotFound) {
		t.Fatalf("got %v", err)
	}
	if err := c.Signal(t.Context(), k, int(unix.SIGTERM)); err != nil {
		t.Fatal(err)
	}
	err := cmds[0].Wait()
	if e, ok := errors.AsType[*exec.ExitError](err); !ok || e.Sys().(syscall.WaitStatus).Signal() != unix.SIGTERM {
		t.Errorf("ended with %v", err)
	}
	if err := c.Signal(t.Context(), k, int(unix.SIGTERM)); !errors.Is(err, runtime.ErrNotFound) {
		t.Errorf("got %v", err)
	}
}

func TestAwaitEndsWithItsContext(t *testing.T) {
	c := control(t, Options{})
	k, _ := group(t)
	r, err := c.open(k.CgroupDir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := await(ctx, r, func(events) bool { return false }); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

// TestAwaitIsWoken: the change comes while await sleeps.
func TestAwaitIsWoken(t *testing.T) {
	c := control(t, Options{})
	k, _ := group(t)
	r, err := c.open(k.CgroupDir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	asked := make(chan struct{}, 1)
	got := make(chan error, 1)
	go func() {
		got <- await(ctx, r, func(e events) bool {
			select {
			case asked <- struct{}{}:
			default:
			}
			return e.frozen
		})
	}()
	<-asked
	if err := write(r, "cgroup.freeze", "1"); err != nil {
		t.Fatal(err)
	}
	if err := <-got; err != nil {
		t.Error(err)
	}
}

func TestOnlyContainersAreTouched(t *testing.T) {
	c := control(t, Options{})
	for _, dir := range []string{"", "/", host.CgroupRoot, host.CgroupRoot + "/", host.CgroupRoot + "/x/..", "/etc", host.CgroupRoot + "/../../etc"} {
		k := runtime.Container{ID: "x", CgroupDir: dir, PID: os.Getpid()}
		if err := c.Freeze(t.Context(), k); !errors.Is(err, ErrUnexpectedPath) {
			t.Errorf("freeze of %q: %v", dir, err)
		}
		if err := c.KillAll(t.Context(), dir); !errors.Is(err, ErrUnexpectedPath) {
			t.Errorf("kill of %q: %v", dir, err)
		}
	}
}
