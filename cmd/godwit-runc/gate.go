// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/signal"
	"syscall"
)

// gate waits until the agent, or kubelet when the pod is deleted, ends it. As
// process 1 of its container it must name the signals it ends on; all others
// are ignored.
func gate() int {
	end := make(chan os.Signal, 1)
	signal.Ignore()
	signal.Notify(end, syscall.SIGTERM, syscall.SIGUSR1)
	<-end
	return 0
}
