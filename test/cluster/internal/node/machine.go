// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Package node says how a worker node is run: its virtual machine's arguments
// and the files that make it this node. It starts nothing.
package node

import (
	"fmt"

	"godwit.dev/godwit/test/cluster/internal/image"
	"godwit.dev/godwit/test/cluster/internal/topology"
)

// Machine describes one virtual machine.
type Machine struct {
	// Node is whom it is.
	Node topology.Node
	// Image is what it boots from; Disk is its own overlay on the image's disk
	// and Seed the archive with its own files.
	Image      image.Image
	Disk, Seed string
	// Console is the file that receives its serial console.
	Console string
	// Monitor is the path of QEMU's control socket.
	Monitor string
	// KVM chooses the hardware accelerator over the emulator.
	KVM bool
	// TSCKHz is the rate of the host's time stamp counter in kHz.
	TSCKHz int
	// MemoryMiB and CPUs size it.
	MemoryMiB, CPUs int
}

// kernelArgs of a node. Mitigations protect nothing here and cost an emulated
// processor a lot. Waiting for an RCU grace period, as loading a module and
// making or removing a namespace do, takes it tens of milliseconds unless it is
// expedited. The emulated time stamp counter is the host's: its rate is known,
// and a watchdog that doubts it because the host was busy would only make the
// kernel patch itself and read a slow clock. The card keeps its name because there is no udev to
// rename it. A node that panics comes back; its console's log tells.
const kernelArgs = "console=ttyS0 quiet loglevel=4 net.ifnames=0 mitigations=off audit=0 nowatchdog " +
	"rcupdate.rcu_expedited=1 rcupdate.rcu_normal_after_boot=0 tsc=reliable panic=5 systemd.show_status=false"

// Accelerator returns the arguments that choose it. An emulated processor that says it
// has fast string operations (erms, fsrm) makes the kernel copy with "rep movsb", which the
// emulator does byte by byte: without, reading from the page cache is 5 times as fast,
// and writing to it 3 times (dd on a node, tmpfs).
func Accelerator(kvm bool) []string {
	if kvm {
		return []string{"-accel", "kvm", "-cpu", "host"}
	}
	return []string{"-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max,erms=off,fsrm=off"}
}

// kernelArgs are those of every node and, emulated, the rate of its time stamp
// counter, which a kernel that measures it on a busy host can get further wrong
// than its own later correction accepts. Address space randomization is off
// there: the emulator translates a program anew for every place it is loaded at,
// which makes starting a dynamically linked one several times slower. Tests
// that are about memory turn it on (/proc/sys/kernel/randomize_va_space).
func (m Machine) kernelArgs() string {
	if m.KVM {
		return kernelArgs
	}
	return fmt.Sprintf("%s norandmaps init_on_alloc=0 tsc_early_khz=%d", kernelArgs, m.TSCKHz)
}

// Args is the command that runs the machine, to be started inside the
// cluster's namespace.
func (m Machine) Args() []string {
	args := []string{"qemu-system-x86_64", "-name", m.Node.Name, "-machine", "q35,usb=off,vmport=off,smbus=off"}
	args = append(args, Accelerator(m.KVM)...)
	return append(args,
		"-smp", fmt.Sprint(m.CPUs), "-m", fmt.Sprint(m.MemoryMiB),
		"-nodefaults", "-no-user-config", "-display", "none",
		"-chardev", "file,id=console,append=on,path="+m.Console, "-serial", "chardev:console",
		"-qmp", "unix:"+m.Monitor+",server=on,wait=off",
		"-kernel", m.Image.Kernel, "-initrd", m.Image.InitRD, "-append", m.kernelArgs(),
		// The guest's flushes are not passed on: the host's page cache outlives
		// the machine, which is ended through the monitor so that the overlay's
		// tables get there too.
		"-drive", "if=none,id=disk,format=qcow2,cache=unsafe,discard=unmap,file="+m.Disk,
		"-device", "virtio-blk-pci,drive=disk",
		"-drive", "if=none,id=seed,format=raw,readonly=on,file="+m.Seed,
		"-device", "virtio-blk-pci,drive=seed",
		"-netdev", "tap,id=net,script=no,downscript=no,ifname="+m.Node.Tap,
		"-device", "virtio-net-pci,netdev=net,romfile=,mac="+m.Node.MAC,
		// The guest's clock starts at the host's and advances with it.
		"-rtc", "base=utc,clock=host",
	)
}
