// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	clusterclient "godwit.dev/godwit/test/cluster/client"
)

// Shell is a shell that stays on a node. Starting a command over SSH costs an
// emulated node a good part of a second, which must not be in what is measured;
// a shell that is there already begins at once. It runs one command at a time.
type Shell struct {
	name   string
	in     *io.PipeWriter
	lines  chan string
	cancel context.CancelFunc
	// ended is closed when the shell is gone; err says why.
	ended chan struct{}
	err   error
}

// shellMark begins the line that ends a command's output.
const shellMark = "::godwit-status"

// OpenShell starts a shell on the node. It lives until Close, or until ctx ends.
func OpenShell(ctx context.Context, node *clusterclient.Node) *Shell {
	return newShell(ctx, node.Name, func(ctx context.Context, in io.Reader, out io.Writer) error {
		code, err := node.Stream(ctx, "exec bash", in, out, out)
		if err == nil && code != 0 {
			err = fmt.Errorf("the shell ended with exit code %d", code)
		}
		return err
	})
}

func newShell(ctx context.Context, name string, run func(context.Context, io.Reader, io.Writer) error) *Shell {
	ctx, cancel := context.WithCancel(ctx)
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	s := &Shell{name: name, in: inW, lines: make(chan string), cancel: cancel, ended: make(chan struct{})}
	go func() {
		err := run(ctx, inR, outW)
		_ = inR.CloseWithError(io.ErrClosedPipe)
		_ = outW.CloseWithError(err)
	}()
	go func() {
		defer close(s.ended)
		r := bufio.NewReader(outR)
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				if !errors.Is(err, io.EOF) {
					s.err = err
				}
				return
			}
			select {
			case s.lines <- line:
			case <-ctx.Done():
				s.err = ctx.Err()
				_ = outR.CloseWithError(ctx.Err())
				return
			}
		}
	}()
	return s
}

// Run runs a line of shell in a subshell and returns what it printed, on either
// stream, without the white space around it. Another exit code than 0 is an
// *clusterclient.ExitError. A shell whose ctx ended in a Run is of no use any more.
func (s *Shell) Run(ctx context.Context, line string) (string, error) {
	// The end of the output need not be the end of a line.
	text := "(" + line + "\n) </dev/null 2>&1; status=$?; echo; echo " + shellMark + " $status\n"
	written := make(chan error, 1)
	go func() {
		_, err := io.WriteString(s.in, text)
		written <- err
	}()
	var out strings.Builder
	for {
		select {
		case l := <-s.lines:
			code, last := strings.CutPrefix(l, shellMark)
			if !last {
				out.WriteString(l)
				continue
			}
			return s.result(line, strings.TrimSpace(out.String()), strings.TrimSpace(code))
		case err := <-written:
			if err != nil {
				return "", fmt.Errorf("%s: %s: %w", s.name, line, err)
			}
			written = nil
		case <-s.ended:
			return "", fmt.Errorf("%s: %s: the shell is gone: %w: %s", s.name, line, orEOF(s.err), out.String())
		case <-ctx.Done():
			s.cancel()
			return "", fmt.Errorf("%s: %s: %w: %s", s.name, line, context.Cause(ctx), out.String())
		}
	}
}

func (s *Shell) result(line, out, code string) (string, error) {
	n, err := strconv.Atoi(code)
	switch {
	case err != nil:
		return out, fmt.Errorf("%s: %s: exit code %q: %w", s.name, line, code, err)
	case n != 0:
		return out, &clusterclient.ExitError{Node: s.name, Command: line,
			Result: clusterclient.Result{Stdout: out, Stderr: out, ExitCode: n}}
	}
	return out, nil
}

func orEOF(err error) error {
	if err == nil {
		return io.EOF
	}
	return err
}

// Close ends the shell, and a command that still runs in it.
func (s *Shell) Close() {
	_ = s.in.Close()
	s.cancel()
	<-s.ended
}
