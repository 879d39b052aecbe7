// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
)

// ErrEnded: what was to wait at the gate has ended before it stood ready.
var ErrEnded = errors.New("ended before it was ready")

// Gate is where a program that others have started waits for this process: for the
// freeze, or for the commit. The program opens the gate's pipes by the paths of our
// descriptors: when this process is gone, so are they, and it ends instead.
type Gate struct {
	readyOut, readyIn *os.File
	goOut, goIn       *os.File
}

// What goes through the pipes of a gate.
const (
	lineReady = "ready\n"
	lineGo    = "go\n"
)

// NewGate makes a gate, to be closed when nobody waits there any more.
func NewGate() (*Gate, error) {
	g := &Gate{}
	var err error
	if g.readyOut, g.readyIn, err = os.Pipe(); err != nil {
		return nil, fmt.Errorf("make a pipe: %w", err)
	}
	if g.goOut, g.goIn, err = os.Pipe(); err != nil {
		g.readyOut.Close()
		g.readyIn.Close()
		return nil, fmt.Errorf("make a pipe: %w", err)
	}
	return g, nil
}

// Close ends the gate. Who still waits there ends with a failure.
func (g *Gate) Close() {
	for _, f := range []*os.File{g.readyOut, g.readyIn, g.goOut, g.goIn} {
		_ = f.Close()
	}
}

// Paths of the pipes for a process in the same PID namespace: one that gets a line
// from who stands ready, and one that then gives the line "go", or ends.
func (g *Gate) Paths() (ready, goOn string) { return procPath(g.readyIn), procPath(g.goOut) }

// procPath is a path of a descriptor of ours for other processes.
func procPath(f *os.File) string {
	var path string
	// Unlike Fd, this leaves the file as it is: a read can still be interrupted.
	conn, err := f.SyscallConn()
	if err == nil {
		err = conn.Control(func(fd uintptr) { path = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd) })
	}
	if err != nil {
		return "" // it is closed; nobody waits there
	}
	return path
}

// Await returns when somebody stands ready, or ErrEnded when nobody ever will.
func (g *Gate) Await(ctx context.Context, ended <-chan struct{}) error {
	ready := make(chan error, 1)
	go func() {
		_, err := io.ReadFull(g.readyOut, make([]byte, len(lineReady)))
		ready <- err
	}()
	select {
	case err := <-ready:
		return err
	case <-ended:
		return ErrEnded
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Open lets who stands ready go on.
func (g *Gate) Open() error {
	_, err := g.goIn.WriteString(lineGo)
	return err
}

// StandReady is the other side of a gate, given its paths: it says that it stands
// ready, and returns nil when it may go on, or an error when it must not. wait is
// called before the pipe is read that tells, for a caller with more to wait for.
func StandReady(ready, goOn string, wait func(goOn *os.File) error) error {
	in, err := os.OpenFile(goOn, os.O_RDONLY, 0)
	if err != nil {
		return fmt.Errorf("gate: %w", err)
	}
	defer in.Close()
	out, err := os.OpenFile(ready, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("gate: %w", err)
	}
	_, err = out.WriteString(lineReady)
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = wait(in)
	}
	if err != nil {
		return fmt.Errorf("gate: %w", err)
	}
	line := make([]byte, len(lineGo))
	if _, err := io.ReadFull(in, line); err != nil || string(line) != lineGo {
		return fmt.Errorf("gate: %w: got %q, %w", ErrEnded, line, err)
	}
	return nil
}
