// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/internal/thread"
)

// nonlocalBind lets a network's sockets be bound to addresses that it does not have
// (ip-sysctl.rst). CRIU asks for no such thing for IPv4 sockets.
const nonlocalBind = "/proc/sys/net/ipv4/ip_nonlocal_bind"

// network is the path of the container's network namespace, "" when it is not one
// that was made before.
func (b *bundle) network() string {
	for _, ns := range b.Linux.Namespaces {
		if ns.Type == "network" {
			return ns.Path
		}
	}
	return ""
}

// allowOldAddresses lets sockets be restored that still have the source pod's
// address: those of connections that had ended when the pod was dumped, and that the
// process has not closed yet. undo takes that back.
func allowOldAddresses(network string) (undo func() error, err error) {
	if network == "" {
		return func() error { return nil }, nil
	}
	var before []byte
	err = inNetwork(network, func() error {
		if before, err = os.ReadFile(nonlocalBind); err != nil {
			return err
		}
		return os.WriteFile(nonlocalBind, []byte("1"), 0)
	})
	if err != nil {
		return func() error { return nil }, fmt.Errorf("let the pod's network have sockets with the old address: %w", err)
	}
	return func() error {
		if bytes.HasPrefix(before, []byte("1")) {
			return nil
		}
		return inNetwork(network, func() error { return os.WriteFile(nonlocalBind, before, 0) })
	}, nil
}

// inNetwork calls fn on a thread in a network namespace.
func inNetwork(path string, fn func() error) error {
	ns, err := os.Open(path)
	if err != nil {
		return err
	}
	defer ns.Close()
	return thread.Do(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return errors.Join(errors.New("enter "+path), err)
		}
		return fn()
	})
}
