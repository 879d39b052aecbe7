// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Package host runs commands on the machine that carries the cluster.
package host

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Command is one host command.
type Command struct {
	// Args are the program and its arguments.
	Args []string
	// Dir is the working directory; empty means the caller's.
	Dir string
	// Env is added to the caller's environment.
	Env []string
	// Stdin is the standard input; nil means none.
	Stdin io.Reader
	// Log receives standard output and error as they come, besides what the
	// error keeps; nil means nobody.
	Log io.Writer
}

// CommandError says how a command failed and how its output ended.
type CommandError struct {
	// Args are the program and its arguments.
	Args []string
	// Tail is the end of its standard output and error.
	Tail string
	// Err is the cause: an *exec.ExitError, or why it could not be started.
	Err error
}

// Error names the command, the cause and the output's end.
func (e *CommandError) Error() string {
	line := strings.Join(e.Args, " ")
	if len(line) > 200 {
		line = line[:200] + " ..."
	}
	if e.Tail == "" {
		return fmt.Sprintf("%s: %v", line, e.Err)
	}
	return fmt.Sprintf("%s: %v\n%s", line, e.Err, e.Tail)
}

// Unwrap returns the cause.
func (e *CommandError) Unwrap() error { return e.Err }

// Run runs the command to its end. Its error is a *CommandError. Cancelling ctx
// kills the command.
func (c Command) Run(ctx context.Context) error {
	_, err := c.run(ctx, false)
	return err
}

// Output runs the command to its end and returns its standard output. Its error
// is a *CommandError.
func (c Command) Output(ctx context.Context) ([]byte, error) {
	return c.run(ctx, true)
}

func (c Command) run(ctx context.Context, keep bool) ([]byte, error) {
	cmd := exec.CommandContext(ctx, c.Args[0], c.Args[1:]...)
	cmd.Dir = c.Dir
	cmd.Stdin = c.Stdin
	cmd.WaitDelay = 5 * time.Second
	// The command may have children (a package's scripts, a compiler): they end
	// with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	if len(c.Env) > 0 {
		cmd.Env = append(cmd.Environ(), c.Env...)
	}
	end := &tail{limit: 4096}
	var output bytes.Buffer
	var both io.Writer = end
	if c.Log != nil {
		both = io.MultiWriter(end, c.Log)
	}
	cmd.Stderr = both
	cmd.Stdout = both
	if keep {
		cmd.Stdout = &output
	}
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("%w (%w)", ctx.Err(), err)
		}
		return output.Bytes(), &CommandError{Args: c.Args, Tail: end.String(), Err: err}
	}
	return output.Bytes(), nil
}

// Run runs a command to its end. Its error is a *CommandError.
func Run(ctx context.Context, args ...string) error {
	return Command{Args: args}.Run(ctx)
}

// Output runs a command and returns its standard output. Its error is a
// *CommandError.
func Output(ctx context.Context, args ...string) (string, error) {
	out, err := Command{Args: args}.Output(ctx)
	return string(out), err
}

// tail keeps the last limit bytes written to it.
type tail struct {
	mu    sync.Mutex
	limit int
	kept  []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kept = append(t.kept, p...)
	if over := len(t.kept) - t.limit; over > 0 {
		t.kept = append(t.kept[:0], t.kept[over:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.kept))
}
