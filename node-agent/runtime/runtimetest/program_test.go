// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package runtimetest_test

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/node-agent/runtime/runtimetest"
)

const (
	// workloadVariable makes the test binary the program of the containers.
	workloadVariable = "GODWIT_WORKLOAD"
	// statusName and shmName are the files in which the program tells how far
	// it is, in its root file system and in /dev/shm.
	statusName = "status"
	shmName    = "shm-status"
	// commandName is the file in which it is told how many bytes to dirty
	// before it is sent SIGUSR1.
	commandName = "command"
)

// status is what the program tells: little endian numbers in a file.
type status struct {
	// Count grows by one about every millisecond.
	Count uint64
	// Birth is a number that only the very process knows from its start.
	Birth uint64
	// Commands is how many times it has dirtied memory.
	Commands uint64
	// Broken is not 0 when the program found its memory changed.
	Broken uint64
}

const statusSize = 32

func (s status) encode() []byte {
	b := make([]byte, statusSize)
	for i, v := range []uint64{s.Count, s.Birth, s.Commands, s.Broken} {
		binary.LittleEndian.PutUint64(b[8*i:], v)
	}
	return b
}

func decode(b []byte) (status, error) {
	if len(b) != statusSize {
		return status{}, fmt.Errorf("the status has %d bytes", len(b))
	}
	return status{
		Count: binary.LittleEndian.Uint64(b), Birth: binary.LittleEndian.Uint64(b[8:]),
		Commands: binary.LittleEndian.Uint64(b[16:]), Broken: binary.LittleEndian.Uint64(b[24:]),
	}, nil
}

// runWorkload never returns: it counts, keeps the promises of a Workload, and
// watches over the content of its memory.
func runWorkload() {
	mem, err := unix.Mmap(-1, 0, 2*runtimetest.Memory, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	exitOn(err)
	// Huge pages would make one written byte cost 2 MiB in the figures.
	exitOn(unix.Madvise(mem, unix.MADV_NOHUGEPAGE))
	page := os.Getpagesize()
	stamp := func(p int, v uint64) { binary.LittleEndian.PutUint64(mem[p*page:], v) }
	pages := len(mem) / page
	expect := make([]uint64, pages)
	for p := range pages {
		expect[p] = uint64(p) + 1
		stamp(p, expect[p])
	}
	file, err := os.OpenFile("/"+statusName, os.O_RDWR|os.O_CREATE, 0o600)
	exitOn(err)
	shm, err := os.OpenFile("/dev/shm/"+shmName, os.O_RDWR|os.O_CREATE, 0o600)
	exitOn(err)
	s := status{Birth: uint64(time.Now().UnixNano())}
	commands := make(chan os.Signal, 1)
	signal.Notify(commands, unix.SIGUSR1)
	tick := time.NewTicker(time.Millisecond)
	next := 0
	for {
		select {
		case <-tick.C:
			s.Count++
			// A little of the memory is checked in each step.
			for i := range uint64(8) {
				p := int((s.Count*8 + i) % uint64(pages))
				if binary.LittleEndian.Uint64(mem[p*page:]) != expect[p] {
					s.Broken++
				}
			}
		case <-commands:
			b, err := os.ReadFile("/" + commandName)
			exitOn(err)
			for range int(binary.LittleEndian.Uint64(b)) / page {
				p := next % pages
				next++
				expect[p] += 1 << 32
				stamp(p, expect[p])
			}
			s.Commands++
		}
		_, err := file.WriteAt(s.encode(), 0)
		exitOn(err)
		_, err = shm.WriteAt(s.encode(), 0)
		exitOn(err)
	}
}

func exitOn(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
