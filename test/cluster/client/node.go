// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"

	"godwit.dev/godwit/test/cluster/internal/shell"
)

// Node is one worker node. Its methods may be called concurrently; they share
// one connection, which is made anew when it was lost.
type Node struct {
	// Name is the Node object's name.
	Name string
	// IP is the node's address.
	IP string

	cluster *Cluster
	mu      sync.Mutex
	conn    *ssh.Client
}

// Result is what a command on a node left.
type Result struct {
	// Stdout and Stderr are its output.
	Stdout, Stderr string
	// ExitCode is its exit code, or 128 plus the signal that ended it.
	ExitCode int
}

// ExitError says that a command on a node ended with another exit code than 0.
type ExitError struct {
	// Node and Command are what ran where.
	Node, Command string
	// Result is what it left.
	Result Result
}

// Error names the node, the command, the exit code and the error output.
func (e *ExitError) Error() string {
	return fmt.Sprintf("%s: %s: exit code %d: %s", e.Node, e.Command, e.Result.ExitCode, strings.TrimSpace(e.Result.Stderr))
}

// Run runs a program on the node, with its arguments as they are: no shell
// looks at them. If it ends with another exit code than 0, the error is an
// *ExitError and the result is filled all the same. When ctx ends the program
// is killed, as far as the node still answers.
func (n *Node) Run(ctx context.Context, args ...string) (Result, error) {
	return n.RunShell(ctx, shell.Join(args))
}

// RunShell is Run for a line of shell.
func (n *Node) RunShell(ctx context.Context, line string) (Result, error) {
	var stdout, stderr bytes.Buffer
	code, err := n.Stream(ctx, line, nil, &stdout, &stderr)
	result := Result{Stdout: stdout.String(), Stderr: stderr.String(), ExitCode: code}
	if err != nil {
		return result, err
	}
	if code != 0 {
		return result, &ExitError{Node: n.Name, Command: line, Result: result}
	}
	return result, nil
}

// Output runs a line of shell and returns its standard output without the white
// space around it.
func (n *Node) Output(ctx context.Context, line string) (string, error) {
	result, err := n.RunShell(ctx, line)
	return strings.TrimSpace(result.Stdout), err
}

// Stream runs a line of shell with the given standard streams, any of which may
// be nil, and returns its exit code. The error is about reaching the node, not
// about the exit code. Nothing is written to stdout and stderr after the return.
func (n *Node) Stream(ctx context.Context, line string, stdin io.Reader, stdout, stderr io.Writer) (int, error) {
	session, err := n.session(ctx)
	if err != nil {
		return -1, fmt.Errorf("%s: %w", n.Name, err)
	}
	defer session.Close()
	out, errOut := &gate{to: stdout}, &gate{to: stderr}
	defer out.close()
	defer errOut.close()
	session.Stdin, session.Stdout, session.Stderr = stdin, out, errOut
	if err := session.Start(line); err != nil {
		return -1, fmt.Errorf("%s: %w", n.Name, err)
	}
	finished := make(chan error, 1)
	go func() { finished <- session.Wait() }()
	select {
	case err = <-finished:
	case <-ctx.Done():
		// A node that is gone answers neither; the caller need not wait for it.
		go func() {
			_ = session.Signal(ssh.SIGKILL)
			_ = session.Close()
		}()
		return -1, fmt.Errorf("%s: %s: %w", n.Name, line, ctx.Err())
	}
	var exit *ssh.ExitError
	switch {
	case err == nil:
		return 0, nil
	case errors.As(err, &exit):
		return exit.ExitStatus(), nil
	default:
		return -1, fmt.Errorf("%s: %s: %w", n.Name, line, err)
	}
}

// session opens a session over the node's connection, and connects again, once,
// if that turns out to be lost.
func (n *Node) session(ctx context.Context) (*ssh.Session, error) {
	conn, fresh, err := n.connect(ctx)
	if err != nil {
		return nil, err
	}
	session, err := openSession(ctx, conn)
	if err == nil || fresh || ctx.Err() != nil {
		return session, err
	}
	n.drop(conn)
	if conn, _, err = n.connect(ctx); err != nil {
		return nil, err
	}
	return openSession(ctx, conn)
}

// openSession is ssh.Client.NewSession, which has no context.
func openSession(ctx context.Context, conn *ssh.Client) (*ssh.Session, error) {
	type result struct {
		session *ssh.Session
		err     error
	}
	done := make(chan result, 1)
	go func() {
		s, err := conn.NewSession()
		done <- result{s, err}
	}()
	select {
	case r := <-done:
		return r.session, r.err
	case <-ctx.Done():
		go func() {
			if r := <-done; r.session != nil {
				r.session.Close()
			}
		}()
		return nil, ctx.Err()
	}
}

// connect returns the connection and whether it was made just now.
func (n *Node) connect(ctx context.Context) (conn *ssh.Client, fresh bool, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.conn != nil {
		return n.conn, false, nil
	}
	address := net.JoinHostPort(n.IP, "22")
	raw, err := n.cluster.dial(ctx, "tcp", address)
	if err != nil {
		return nil, false, err
	}
	// The handshake knows no context: closing the connection ends it.
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	c, channels, requests, err := ssh.NewClientConn(raw, address, &n.cluster.ssh)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		raw.Close()
		return nil, false, fmt.Errorf("ssh: %w", err)
	}
	n.conn = ssh.NewClient(c, channels, requests)
	return n.conn, true, nil
}

// drop forgets a connection that no longer works.
func (n *Node) drop(conn *ssh.Client) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.conn == conn {
		n.conn = nil
	}
	conn.Close()
}

func (n *Node) disconnect() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.conn == nil {
		return nil
	}
	err := n.conn.Close()
	n.conn = nil
	return err
}
