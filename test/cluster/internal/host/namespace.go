// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package host

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/internal/thread"
)

// Namespace is a network namespace with a name, as ip-netns(8) keeps them.
type Namespace string

// Path is the file that keeps the namespace alive.
func (n Namespace) Path() string { return filepath.Join("/run/netns", string(n)) }

// ConfigDir holds the files that "ip netns exec" mounts over /etc.
func (n Namespace) ConfigDir() string { return filepath.Join("/etc/netns", string(n)) }

// Exists tells whether the namespace is there.
func (n Namespace) Exists() bool {
	_, err := os.Stat(n.Path())
	return err == nil
}

// Args is the command that runs args inside the namespace.
func (n Namespace) Args(args ...string) []string {
	return append([]string{"ip", "netns", "exec", string(n)}, args...)
}

// Run runs a command inside the namespace.
func (n Namespace) Run(ctx context.Context, args ...string) error {
	return Run(ctx, n.Args(args...)...)
}

// Processes returns the processes inside the namespace, each as its id and
// name.
func (n Namespace) Processes(ctx context.Context) ([]string, error) {
	out, err := Output(ctx, "ip", "netns", "pids", string(n))
	if err != nil {
		return nil, err
	}
	var all []string
	for _, pid := range strings.Fields(out) {
		name, err := os.ReadFile(filepath.Join("/proc", pid, "comm"))
		if err != nil {
			continue // It has ended meanwhile.
		}
		all = append(all, pid+" "+strings.TrimSpace(string(name)))
	}
	return all, nil
}

// DialContext connects from inside the namespace. It has the shape of
// net.Dialer.DialContext.
func (n Namespace) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	f, err := os.Open(n.Path())
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var conn net.Conn
	err = thread.Do(func() error {
		if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter %s: %w", n, err)
		}
		// No name lookup and no second address family: both would use other
		// goroutines, hence other threads and another namespace.
		dialer := net.Dialer{FallbackDelay: -1}
		var err error
		conn, err = dialer.DialContext(ctx, network, address)
		return err
	})
	return conn, err
}
