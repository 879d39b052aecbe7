// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// ownNetwork runs a thread in a network namespace of its own and returns the path of
// that.
func ownNetwork(t *testing.T) string {
	t.Helper()
	path, end := make(chan string), make(chan struct{})
	failed := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := errors.Join(unix.Unshare(unix.CLONE_NEWNET), loopbackUp()); err != nil {
			failed <- err
			return
		}
		path <- fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())
		<-end
	}()
	t.Cleanup(func() { close(end) })
	select {
	case p := <-path:
		return p
	case err := <-failed:
		t.Skipf("NOT RUN: it takes root to make a network namespace: %v", err)
		return ""
	}
}

// loopbackUp: without any address the kernel cannot tell which are not there.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	r, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	r.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, r)
}

func TestSocketsMayHaveTheOldAddressWhileTheyAreRestored(t *testing.T) {
	network := ownNetwork(t)
	bind := func() error {
		return inNetwork(network, func() error {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			return unix.Bind(fd, &unix.SockaddrInet4{Port: 35540, Addr: [4]byte(net.IPv4(192, 0, 2, 48).To4())})
		})
	}
	if err := bind(); err == nil {
		t.Fatal("the network takes every address before anything was done")
	}
	undo, err := allowOldAddresses(network)
	if err != nil {
		t.Fatal(err)
	}
	if err := bind(); err != nil {
		t.Errorf("a socket with the old address: %v", err)
	}
	if err := undo(); err != nil {
		t.Error(err)
	}
	if err := bind(); err == nil {
		t.Error("the network takes every address afterwards")
	}
}

func TestNoNetworkOfItsOwn(t *testing.T) {
	undo, err := allowOldAddresses((&bundle{}).network())
	if err != nil || undo() != nil {
		t.Error(err)
	}
	if _, err := allowOldAddresses("/no/such/namespace"); err == nil {
		t.Error("a namespace that is not there is no error")
	}
}
