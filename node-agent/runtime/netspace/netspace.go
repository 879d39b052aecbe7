// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Package netspace does things in the network namespace of a pod.
package netspace

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/vishvananda/netns"
)

// Do calls f in the network that fd has open, on a thread that f must not leave.
func Do(fd int, f func() error) error {
	done := make(chan error, 1)
	go func() { done <- do(fd, f) }()
	return <-done
}

// do goes there and comes back: a process's first thread cannot be ended, and its network
// would be taken for the process's. Another thread ends with its goroutine when it does
// not come back, still locked to it.
func do(fd int, f func() error) error {
	runtime.LockOSThread()
	own, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("open the own network: %w", err)
	}
	defer own.Close()
	if err := netns.Set(netns.NsHandle(fd)); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter the pod's network: %w", err)
	}
	err = f()
	if back := netns.Set(own); back != nil {
		return errors.Join(err, fmt.Errorf("leave the pod's network: %w", back))
	}
	runtime.UnlockOSThread()
	return err
}
