// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Package netspace does things in the network namespace of a pod.
package netspace

import (
	"fmt"

	"github.com/vishvananda/netns"

	"godwit.dev/godwit/internal/thread"
)

// Do calls f in the network that fd has open, on a thread that f must not leave.
func Do(fd int, f func() error) error {
	return thread.Do(func() error {
		if err := netns.Set(netns.NsHandle(fd)); err != nil {
			return fmt.Errorf("enter the pod's network: %w", err)
		}
		return f()
	})
}
