// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package criu

import (
	"context"
	"errors"
	"fmt"
	"os"

	"godwit.dev/godwit/internal/wire"
)

// errEnded: the dump has ended before it was ready.
var errEnded = errors.New("ended before it was ready")

// gate is where CRIU waits for the freeze, by wire.ActionScript. The script opens the
// pipes by the paths of our descriptors: when this process is gone, so are they, and
// CRIU ends without having touched anything.
type gate struct {
	readyOut, readyIn *os.File
	goOut, goIn       *os.File
}

func newGate() (*gate, error) {
	g := &gate{}
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

func (g *gate) close() {
	for _, f := range []*os.File{g.readyOut, g.readyIn, g.goOut, g.goIn} {
		f.Close()
	}
}

// env tells the script where the pipes are. The agent shares the node's process ids.
func (g *gate) env() []string {
	return []string{wire.EnvDumpReady + "=" + procPath(g.readyIn), wire.EnvDumpGo + "=" + procPath(g.goOut)}
}

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

// await returns when CRIU stands ready, or errEnded when it never will.
func (g *gate) await(ctx context.Context, ended <-chan struct{}) error {
	ready := make(chan error, 1)
	go func() {
		_, err := g.readyOut.Read(make([]byte, 16))
		ready <- err
	}()
	select {
	case err := <-ready:
		return err
	case <-ended:
		return errEnded
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// open lets CRIU go on.
func (g *gate) open() error {
	_, err := g.goIn.WriteString("go\n")
	return err
}
