// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// ErrPeer: the other end of the socket does not belong to root. Hang up.
var ErrPeer = errors.New("peer is not root")

// Dial connects the wrapper to the agent whose run directory is runDir. An
// error means that the agent is not there, or, with ErrPeer, that somebody else is.
func Dial(ctx context.Context, runDir string) (*net.UnixConn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", filepath.Join(runDir, SocketName))
	if err != nil {
		return nil, fmt.Errorf("agent: %w", err)
	}
	conn := c.(*net.UnixConn)
	if err := checkPeer(conn); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("agent: %w", err)
	}
	return conn, nil
}

// Listener accepts wrappers.
//
// The end of a connection means little: its agent may have gone, and the runc
// that restores may outlive its wrapper by a moment. Whether a restore can still
// begin or go on is told by the wrapper's Hold.
type Listener struct {
	l *net.UnixListener
}

// Listen makes the agent's socket in runDir, which is created with mode 0700
// when missing. A socket that an earlier agent left is replaced in one step.
func Listen(runDir string) (*Listener, error) {
	if err := os.MkdirAll(runDir, modeDir); err != nil {
		return nil, fmt.Errorf("agent socket: %w", err)
	}
	// It may have been there already, made by somebody more generous.
	if err := os.Chmod(runDir, modeDir); err != nil {
		return nil, fmt.Errorf("agent socket: %w", err)
	}
	path := filepath.Join(runDir, SocketName)
	temp := path + ".new"
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("agent socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: temp, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("agent socket: %w", err)
	}
	// It is renamed: closing must not remove the name that a successor may own.
	l.SetUnlinkOnClose(false)
	err = os.Chmod(temp, 0o600)
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("agent socket: %w", err)
	}
	return &Listener{l: l}, nil
}

// Accept waits for the next wrapper. Others than root are hung up on: ErrPeer,
// after which the caller accepts the next. net.ErrClosed after Close.
func (l *Listener) Accept() (*net.UnixConn, error) {
	conn, err := l.l.AcceptUnix()
	if err == nil {
		if err = checkPeer(conn); err == nil {
			return conn, nil
		}
		_ = conn.Close()
	}
	return nil, fmt.Errorf("agent socket: %w", err)
}

// Close ends Accept. The socket file stays, refusing connections, until the
// next agent replaces it.
func (l *Listener) Close() error { return l.l.Close() }

// checkPeer: root, or whoever runs this process, which is root outside of tests.
func checkPeer(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var cerr error
	if err := raw.Control(func(fd uintptr) {
		cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return err
	}
	if cerr != nil {
		return fmt.Errorf("peer credentials: %w", cerr)
	}
	if cred.Uid != 0 && int(cred.Uid) != os.Geteuid() {
		return fmt.Errorf("%w: uid %d", ErrPeer, cred.Uid)
	}
	return nil
}
