// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Command memhog is a server that dirties memory at a rate, and can tell
// whether it is the same process it was, how long it did not run, and whether
// its memory is what it has to be. Tests migrate it.
//
// The environment sets it up: SIZE_MIB (64), DIRTY_MIB_PER_SECOND (0), PATTERN
// (uniform, hot, sequential or none), HOT_PERCENT (5), SEED (1), LISTEN (:8080),
// TICK_MS (5), and the switches MPTCP, HUGE_PAGES and IO_URING.
//
//	GET  /healthz                          it serves
//	GET  /status                           boot id, start time, counter, longest gap
//	GET  /verify                           looks at every page; status 500 if one is wrong
//	POST /gap/reset                        forgets the longest gap and returns it
//	POST /dirty?mibPerSecond=8&pattern=hot changes the load
//	POST /log?text=hello                   prints a line on the standard output
//	POST /exit?code=3                      ends the process
//
// It prints nothing else.
package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "memhog:", err)
		os.Exit(1)
	}
}

func run() error {
	c, err := readConfig(os.Getenv)
	if err != nil {
		return err
	}
	// As process 1 of a container it has no default reaction to these.
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, unix.SIGTERM, unix.SIGINT)

	m, err := newMemory(c.Size, c.Seed, c.HugePages)
	if err != nil {
		return err
	}
	if c.IOUring {
		if err := openIOUring(); err != nil {
			return err
		}
	}
	var lc net.ListenConfig
	lc.SetMultipathTCP(c.MPTCP)
	listener, err := lc.Listen(context.Background(), "tcp", c.Listen)
	if err != nil {
		return err
	}

	var id [16]byte
	// It never fails; see its documentation.
	_, _ = rand.Read(id[:])
	now := readClocks()
	s := &server{
		memory: m,
		writer: newWriter(m, newPicker(m.pages(), c.HotPercent, c.Seed), c.Pattern, c.Rate, now.monotonic),
		gaps:   newGaps(now),
		bootID: hex.EncodeToString(id[:]), started: time.Now().Round(0), pid: os.Getpid(),
		stdout: os.Stdout, exit: os.Exit,
	}
	every(c.Tick, func() { s.gaps.tick(readClocks()) })
	every(c.Tick, func() { s.writer.step(readClock(unix.CLOCK_MONOTONIC)) })

	served := make(chan error, 1)
	// No timeouts: they are timers of the Go runtime; see every.
	go func() { served <- (&http.Server{Handler: s.handler()}).Serve(listener) }()
	select {
	case <-stop:
		return nil
	case err := <-served:
		return err
	}
}

// openIOUring opens a ring and keeps it open for as long as the process lives.
func openIOUring() error {
	// struct io_uring_params, which the kernel fills in.
	var params [120]byte
	_, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&params)), 0)
	if errno != 0 {
		return fmt.Errorf("io_uring_setup: %w", errno)
	}
	return nil
}
