// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Command phaul moves a process to another node with go-criu's package of that name,
// in the way of its example, but between two machines. The bench compares with it.
//
//	phaul serve -listen :18090 -dir DIR               on the node to move to; one move
//	phaul migrate -to HOST:18090 -pid PID -dir DIR    on the node to move from
//
// Two connections lead from one to the other: over the first the calls of
// phaul.Remote are made, the second is handed to CRIU on both sides, for pages.
package main

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "phaul: error:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return errors.New("serve or migrate?")
	}
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	listen := flags.String("listen", "", "address to listen on")
	to := flags.String("to", "", "address to move to")
	pid := flags.Int("pid", 0, "process to move")
	dir := flags.String("dir", "", "directory for images")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	if err := os.MkdirAll(*dir, 0o700); err != nil {
		return err
	}
	switch args[0] {
	case "serve":
		return serve(*listen, *dir)
	case "migrate":
		return migrate(*to, int32(*pid), *dir)
	}
	return fmt.Errorf("unknown verb %q", args[0])
}

// inherited is a descriptor of a connection that programs which are started inherit
// under the same number. CRIU does not expect it to be non-blocking.
func inherited(c *net.TCPConn) (*os.File, error) {
	f, err := c.File()
	if err != nil {
		return nil, err
	}
	fd := int(f.Fd())
	if err := unix.SetNonblock(fd, false); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
