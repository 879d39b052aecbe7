// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Package thread runs functions on operating system threads of their own, for what
// belongs to a thread and cannot be taken back: namespaces above all.
package thread

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// Do calls f on a thread that ends with it, so that nothing else ever runs there, and
// returns its error. f must not leave the thread.
func Do(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if first() {
			// A process's first thread does not end before the process, and is what
			// /proc shows of it. As long as it is held here another one gets f.
			defer runtime.UnlockOSThread()
			done <- Do(f)
			return
		}
		// Still locked to it when it ends, the goroutine takes the thread along.
		done <- f()
	}()
	return <-done
}

func first() bool { return unix.Gettid() == unix.Getpid() }
