// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Command pause is the only process of a pod's sandbox container: it holds the
// pod's namespaces open until it is told to end. It is process 1 only where a
// pod shares its process namespace, and then it has to reap orphans.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGCHLD)
	for s := range signals {
		if s != syscall.SIGCHLD {
			return
		}
		for {
			pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
			if err == syscall.EINTR {
				continue
			}
			if pid <= 0 {
				break
			}
		}
	}
}
