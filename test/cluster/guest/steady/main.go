// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Command steady keeps the kernel from patching its own code while a node runs.
//
// Debuggers' breakpoints, which CRIU sets in every process that it dumps or
// restores, are perf events. The first one makes the kernel switch on a static
// key in the scheduler, the end of the last one switches it off: it rewrites
// instructions that the other processor is executing, with a breakpoint
// instruction standing in for a moment. QEMU's multi-threaded emulator
// invalidates its translation of the old instructions before it stores the new
// ones. A processor that translates in between keeps executing the breakpoint,
// and the node dies with "Oops: int3" in __schedule.
//
// One perf event bound to a task that never ends keeps the key on for good. The
// unit that runs this program does the same for two other keys that containers
// would switch (processor quotas and device rules) by having both itself.
//
// It imports nothing but the standard library, because it is compiled from an
// embedded copy of this file.
package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"unsafe"
)

const (
	sysPerfEventOpen = 298 // on amd64, absent from package syscall
	typeSoftware     = 1
	countDummy       = 9
	attributesSize   = 64 // PERF_ATTR_SIZE_VER0
	closeOnExec      = 8
)

func main() {
	// The event is bound to this thread, so the thread must stay.
	runtime.LockOSThread()
	if err := openEvent(); err != nil {
		fmt.Fprintln(os.Stderr, "steady:", err)
		os.Exit(1)
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	<-signals
}

// openEvent opens an event that counts nothing, for the calling thread on any
// processor. It lasts as long as its descriptor, which is never closed.
func openEvent() error {
	attributes := make([]byte, attributesSize)
	binary.NativeEndian.PutUint32(attributes[0:], typeSoftware)
	binary.NativeEndian.PutUint32(attributes[4:], attributesSize)
	binary.NativeEndian.PutUint64(attributes[8:], countDummy)
	thisThread, anyProcessor, noGroup := 0, -1, -1
	_, _, errno := syscall.Syscall6(sysPerfEventOpen, uintptr(unsafe.Pointer(&attributes[0])),
		uintptr(thisThread), uintptr(anyProcessor), uintptr(noGroup), closeOnExec, 0)
	if errno != 0 {
		return fmt.Errorf("open a perf event: %w", errno)
	}
	return nil
}
