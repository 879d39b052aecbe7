// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Process identifies a process that outlives this one. A process id alone does
// not: the kernel hands it out again.
type Process struct {
	// PID is the process id.
	PID int `json:"pid"`
	// Started is the start time in clock ticks since the machine's boot, from
	// field 22 of /proc/PID/stat.
	Started uint64 `json:"started"`
	// Log is the file with its output.
	Log string `json:"log"`

	exited chan struct{}
}

// StartProcess starts args in a session of its own, with its output appended to
// the file log, and does not wait for it.
func StartProcess(log, dir string, env []string, args ...string) (*Process, error) {
	out, err := os.OpenFile(log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = dir
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if len(env) > 0 {
		cmd.Env = append(cmd.Environ(), env...)
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &Process{PID: cmd.Process.Pid, Log: log, exited: make(chan struct{})}
	s, err := readStat(p.PID)
	p.Started = s.started
	go func() {
		// Reap it, should it end before this process does.
		_ = cmd.Wait()
		close(p.exited)
	}()
	if err != nil {
		return nil, fmt.Errorf("%s ended at once: %s", args[0], LogTail(log, 20))
	}
	return p, nil
}

// Exited is closed when the process has ended. It is nil, and so never ready,
// for a process that another process started.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Alive tells whether this very process still runs. One that was killed does, and
// keeps its ports, as long as one of its threads has yet to end.
func (p *Process) Alive() bool {
	s, err := readStat(p.PID)
	return err == nil && s.started == p.Started && s.state != 'X' && (s.state != 'Z' || s.threads > 1)
}

// Signal sends sig to this very process, and nothing if it has ended.
func (p *Process) Signal(sig syscall.Signal) error {
	// A pidfd refers to one process for good: open it first, look at the start
	// time then, and no other process can be hit.
	handle, err := os.FindProcess(p.PID)
	if err != nil {
		return err
	}
	defer func() { _ = handle.Release() }()
	if !p.Alive() {
		return nil
	}
	if err := handle.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

// Stop asks the process to end with sig, and kills it when it has not within
// grace. It returns once the process is gone.
func (p *Process) Stop(ctx context.Context, sig syscall.Signal, grace time.Duration) error {
	if err := p.Signal(sig); err != nil {
		return err
	}
	for _, limit := range []time.Duration{grace, 20 * time.Second} {
		waiting, cancel := context.WithTimeout(ctx, limit)
		gone := p.WaitGone(waiting)
		cancel()
		if gone {
			return nil
		}
		if err := p.Signal(syscall.SIGKILL); err != nil {
			return err
		}
	}
	return fmt.Errorf("process %d does not end", p.PID)
}

// WaitGone waits until the process is gone or ctx ends, and tells whether it is
// gone.
func (p *Process) WaitGone(ctx context.Context) bool {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for p.Alive() {
		select {
		case <-ctx.Done():
			return !p.Alive()
		case <-tick.C:
		}
	}
	return true
}

// stat is what the kernel says of a process, see proc_pid_stat(5): its state, the
// number of its threads, and its start time in clock ticks after boot.
type stat struct {
	state   byte
	threads uint64
	started uint64
}

func readStat(pid int) (stat, error) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}, err
	}
	return parseStat(string(content))
}

func parseStat(content string) (stat, error) {
	// The name, in parentheses, may contain anything, parentheses too.
	_, rest, ok := cutLast(content, ") ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 20 {
		return stat{}, fmt.Errorf("unexpected process status %q", content)
	}
	threads, terr := strconv.ParseUint(fields[17], 10, 64)
	started, serr := strconv.ParseUint(fields[19], 10, 64)
	return stat{fields[0][0], threads, started}, errors.Join(terr, serr)
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// LogTail returns the last lines of a file, or why they cannot be read.
func LogTail(path string, lines int) string {
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	const most = 16 << 10
	if info, err := f.Stat(); err == nil && info.Size() > most {
		if _, err := f.Seek(-most, io.SeekEnd); err != nil {
			return err.Error()
		}
	}
	content, err := io.ReadAll(f)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(content), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// FindProcess returns the process that has the id now.
func FindProcess(pid int) (*Process, error) {
	s, err := readStat(pid)
	return &Process{PID: pid, Started: s.started}, err
}
