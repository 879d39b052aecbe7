// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Command everything holds something of each kind that Linux gives a process: watches,
// timers, descriptors of all sorts, locks, shared memory, deleted files, children. At
// each step it looks whether everything is as it left it, and changes it. Besides it is
// a store over HTTP; see test/workloads/kv.
//
// It has two descendants, in a row, which answer over pipes and see its locks.
package main

import (
	"context"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/test/workloads/kv"
)

// roleVariable says what a process of this program is.
const roleVariable = "EVERYTHING_ROLE"

// networkVariable set to 1 adds what a move ends or refuses: a connection over loopback,
// and a listener on the pod's own address.
const networkVariable = "NETWORK"

const (
	roleMain       = "main"
	roleChild      = "child"
	roleGrandchild = "grandchild"
	roleZombie     = "zombie"
)

// stepInterval is how often everything is looked at.
const stepInterval = 100 * time.Millisecond

func main() {
	log.SetFlags(0)
	var err error
	switch os.Getenv(roleVariable) {
	case roleMain:
		err = serve()
	case roleChild, roleGrandchild:
		err = answerParent(os.Getenv(roleVariable) == roleChild)
	case roleZombie:
		os.Exit(zombieStatus)
	default:
		err = becomeMain()
	}
	if err != nil {
		log.Fatal("everything: ", err)
	}
}

// becomeMain starts this program anew with the signal of the signalfd blocked: Go's
// threads have the mask that the first one had.
func becomeMain() error {
	if err := blockSignal(); err != nil {
		return err
	}
	return syscall.Exec("/proc/self/exe", os.Args, append(os.Environ(), roleVariable+"="+roleMain))
}

func serve() error {
	w := &watcher{}
	makers := []func() (holder, error){
		newInotify, newTimers, newSignalfd, newEventfd, newMemfd, newDeleted, newFIFO, newLocks, newTree,
		newSocketpair, newSharedFile, newSysV, newLog, newAttributes,
	}
	if os.Getenv(networkVariable) == "1" {
		makers = append(makers, newLoopback, newOwnAddress)
	}
	for i, make := range makers {
		h, err := make()
		if err != nil {
			return fmt.Errorf("holder %d: %w", i, err)
		}
		w.holders = append(w.holders, h)
	}
	go w.run()
	// Plain TCP: that is not what is tried here.
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(context.Background(), "tcp", ":8080")
	if err != nil {
		return err
	}
	return http.Serve(l, kv.New(w))
}

// holder holds something.
type holder interface {
	// name for messages.
	name() string
	// step checks that all is as the last step has left it, and changes it.
	step() error
}

// watcher steps through all holders for ever.
type watcher struct {
	holders []holder

	mu       sync.Mutex
	steps    uint64
	problems []string
}

func (w *watcher) run() {
	failed := map[string]bool{}
	for range time.Tick(stepInterval) {
		for _, h := range w.holders {
			// The first problem of each tells the most.
			if err := h.step(); err != nil && !failed[h.name()] {
				failed[h.name()] = true
				w.problem(fmt.Sprintf("%s: %v", h.name(), err))
			}
		}
		w.mu.Lock()
		w.steps++
		w.mu.Unlock()
	}
}

func (w *watcher) problem(text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.problems = append(w.problems, text)
	log.Println("problem:", text)
}

// State implements kv.Watch.
func (w *watcher) State() (uint64, []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.steps, append([]string{}, w.problems...)
}

// monotonic is the clock that the kernel's timers follow.
func monotonic() (time.Duration, error) {
	var ts unix.Timespec
	err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return time.Duration(ts.Nano()), err
}
