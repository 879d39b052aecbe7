// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Command sequence proves that a process goes on: it keeps a sequence of
// numbers in memory and writes each of them once to a log outside the cluster.
// It goes to the next number only when the log has acknowledged the one before.
//
// Every write is a connection of its own with one line,
//
//	INCARNATION NUMBER ATTEMPT POD
//
// which the log answers with "ok". The incarnation is a random number made when
// the process starts. The attempt counts every write of a number, so one memory
// never sends a line twice: a log that sees a line again, or a smaller number,
// has been written to by two copies of one memory. The pod is its UID, read at
// each write from the mounts that kubelet has made for the pod in which the
// process is now. Its environment is still that of the pod it began in.
//
// The environment sets it up: LOG (address and port, required), INTERVAL_MS
// (50), SIZE_MIB (16), PAGES (8: pages of that memory written with each number)
// and SEED (1).
package main

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"os/signal"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "sequence:", err)
		os.Exit(1)
	}
}

func run() error {
	address, err := parseAddress(os.Getenv("LOG"))
	if err != nil {
		return fmt.Errorf("LOG: %w", err)
	}
	var interval, size, pages, seed uint64
	for _, v := range []struct {
		name  string
		value *uint64
		or    uint64
	}{{"INTERVAL_MS", &interval, 50}, {"SIZE_MIB", &size, 16}, {"PAGES", &pages, 8}, {"SEED", &seed, 1}} {
		if *v.value, err = number(v.name, v.or); err != nil {
			return err
		}
	}
	memory, err := unix.Mmap(-1, 0, int(size)<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return fmt.Errorf("memory: %w", err)
	}
	w := worker{memory: memory, pages: pages, random: mathrand.New(mathrand.NewPCG(seed, 0))}
	w.fill()
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails; see its documentation
	seq := &sequence{incarnation: hex.EncodeToString(id[:])}

	// As process 1 of a container it has no default reaction to these.
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, unix.SIGTERM, unix.SIGINT)
	go func() {
		runtime.LockOSThread()
		for {
			seq.step(func(line string) error { return send(address, line) }, podUID)
			w.work()
			pause(int64(interval) * 1e6)
		}
	}()
	<-stop
	return nil
}

func number(name string, otherwise uint64) (uint64, error) {
	v := os.Getenv(name)
	if v == "" {
		return otherwise, nil
	}
	n, err := strconv.ParseUint(v, 10, 20)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", name, err)
	}
	return n, nil
}

// pause is the kernel's relative sleep. Timers of the Go runtime hold an
// absolute reading of the monotonic clock, which is another one on another node.
func pause(nanoseconds int64) {
	ts := unix.NsecToTimespec(nanoseconds)
	_ = unix.Nanosleep(&ts, nil)
}

// worker dirties memory, so that rounds of pre-copy have something to do.
type worker struct {
	memory []byte
	pages  uint64
	random *mathrand.Rand
}

const pageSize = 4096

func (w *worker) fill() {
	for i := 0; i < len(w.memory); i += 8 {
		w.memory[i] = byte(w.random.Uint32())
	}
}

func (w *worker) work() {
	n := uint64(len(w.memory) / pageSize)
	for range w.pages {
		if n > 0 {
			w.memory[w.random.Uint64N(n)*pageSize]++
		}
	}
}
