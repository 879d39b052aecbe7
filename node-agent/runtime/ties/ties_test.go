// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package ties

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/node-agent/runtime"
	"godwit.dev/godwit/node-agent/runtime/unixsock"
)

// The test binary is also the program in the containers.
func TestMain(m *testing.M) {
	if dir := os.Getenv("TIES_DIR"); dir != "" {
		if err := talk(dir, os.Getenv("TIES_NAME"), strings.Fields(os.Getenv("TIES_PEERS")), os.Getenv("TIES_DEAF") != ""); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// talk listens and asks its peers again and again, connecting anew at once when a
// connection has ended. A deaf one keeps what it has, ended or not. For every answer it
// writes a line. It ends with its input.
func talk(dir, name string, peers []string, deaf bool) error {
	l, err := net.Listen("unix", filepath.Join(dir, name))
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(c, c)
				if deaf {
					select {}
				}
				_ = c.Close()
			}()
		}
	}()
	for _, peer := range peers {
		go func() {
			for {
				c, err := net.Dial("unix", filepath.Join(dir, peer))
				if err != nil {
					time.Sleep(time.Millisecond) // nothing tells that the peer listens
					continue
				}
				for b := []byte{1}; ; {
					if _, err := c.Write(b); err != nil {
						break
					}
					if _, err := io.ReadFull(c, b); err != nil {
						break
					}
					fmt.Println(peer)
				}
				if deaf {
					select {}
				}
				_ = c.Close()
			}
		}()
	}
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// signals freezes with signals: a stopped process runs as little as a frozen one.
type signals struct{ runtime.Freezer }

func (signals) Freeze(_ context.Context, c runtime.Container) error {
	if err := syscall.Kill(c.PID, syscall.SIGSTOP); err != nil {
		return err
	}
	// The last of its threads stops a moment later.
	var info syscall.WaitStatus
	_, err := syscall.Wait4(c.PID, &info, syscall.WUNTRACED, nil)
	if err == nil && !info.Stopped() {
		err = fmt.Errorf("%s ended: %v", c.Name, info)
	}
	return err
}

func (signals) Thaw(_ context.Context, c runtime.Container) error {
	return syscall.Kill(c.PID, syscall.SIGCONT)
}

type speaker struct {
	runtime.Container
	answers atomic.Int64
}

func speakers(t *testing.T, deaf bool, peers map[string]string) map[string]*speaker {
	t.Helper()
	dir, all := t.TempDir(), map[string]*speaker{}
	for name, to := range peers {
		cmd := exec.Command(os.Args[0])
		cmd.Env = []string{"TIES_DIR=" + dir, "TIES_NAME=" + name, "TIES_PEERS=" + to}
		if deaf {
			cmd.Env = append(cmd.Env, "TIES_DEAF=1")
		}
		cmd.Stderr = os.Stderr
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		// So that few answers are on their way.
		if _, err := unix.FcntlInt(out.(*os.File).Fd(), unix.F_SETPIPE_SZ, os.Getpagesize()); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = in.Close()
			_, _ = cmd.Process.Wait()
		})
		s := &speaker{Container: runtime.Container{Name: name, PID: cmd.Process.Pid, CgroupDir: strconv.Itoa(cmd.Process.Pid)}}
		all[name] = s
		go func() {
			for lines := bufio.NewScanner(out); lines.Scan(); {
				s.answers.Add(1)
			}
		}()
	}
	for name, to := range peers {
		if to != "" {
			all[name].hears(t, 100)
		}
	}
	return all
}

// hears waits for that many answers, which are only counted.
func (s *speaker) hears(t *testing.T, n int64) {
	t.Helper()
	for from, end := s.answers.Load(), time.Now().Add(time.Minute); s.answers.Load() < from+n; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s hears nothing any more", s.Name)
		}
	}
}

func frozen(t *testing.T, all map[string]*speaker) []runtime.Container {
	t.Helper()
	var cs []runtime.Container
	for _, s := range all {
		if err := (signals{}).Freeze(t.Context(), s.Container); err != nil {
			t.Fatal(err)
		}
		cs = append(cs, s.Container)
	}
	return cs
}

func separator(patience time.Duration) *Separator {
	return New(Options{Freezer: signals{}, Patience: patience, Processes: func(dir string) ([]int, error) {
		pid, err := strconv.Atoi(dir)
		return []int{pid}, err
	}})
}

// standsAlone checks that no container has a connection of which CRIU would need an end
// that another has.
func standsAlone(t *testing.T, s *Separator, cs []runtime.Container) {
	t.Helper()
	ns, err := unixsock.Open(cs[0].PID)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	p, err := s.look(ns, cs)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range p.own {
		if e.Stream && e.Connected && e.Peer != 0 {
			t.Errorf("%s is connected still", e.Name)
		}
		if e.Waiting > 0 {
			t.Errorf("%d wait at %s", e.Waiting, e.Name)
		}
	}
}

func TestSeparate(t *testing.T) {
	for name, peers := range map[string]map[string]string{
		"a client and its server": {"server": "", "client": "server"},
		"each is both":            {"a": "b c", "b": "a c", "c": "a b"},
		"four":                    {"a": "b c d", "b": "a a a", "c": "", "d": "a b c"},
	} {
		t.Run(name, func(t *testing.T) {
			all := speakers(t, false, peers)
			s := separator(time.Minute)
			for range 3 {
				cs := frozen(t, all)
				n, err := s.Separate(t.Context(), cs)
				if err != nil || n == 0 {
					t.Fatalf("%d ended: %v", n, err)
				}
				standsAlone(t, s, cs)
				for _, c := range cs {
					if err := s.o.Freezer.Thaw(t.Context(), c); err != nil {
						t.Fatal(err)
					}
				}
				for n, to := range peers {
					if to != "" {
						// More than what the pipe can hold from before.
						all[n].hears(t, int64(os.Getpagesize()/2+1))
					}
				}
			}
		})
	}
}

func TestOneContainerIsLeftAlone(t *testing.T) {
	if n, err := separator(0).Separate(t.Context(), []runtime.Container{{PID: 1 << 30}}); n != 0 || err != nil {
		t.Errorf("ended %d: %v", n, err)
	}
}

func TestWhoDoesNotClose(t *testing.T) {
	all := speakers(t, true, map[string]string{"a": "b", "b": ""})
	cs := frozen(t, all)
	s := separator(200 * time.Millisecond)
	_, err := s.Separate(t.Context(), cs)
	if !errors.Is(err, runtime.ErrTied) || !strings.Contains(err.Error(), "does not close its end") {
		t.Errorf("got %v", err)
	}
}
