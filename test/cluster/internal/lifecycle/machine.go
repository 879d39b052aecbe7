// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"godwit.dev/godwit/test/cluster/guest"
	"godwit.dev/godwit/test/cluster/internal/host"
	"godwit.dev/godwit/test/cluster/internal/image"
	"godwit.dev/godwit/test/cluster/internal/node"
	"godwit.dev/godwit/test/cluster/internal/qmp"
	"godwit.dev/godwit/test/cluster/internal/topology"
	"godwit.dev/godwit/test/cluster/internal/tsc"
)

// probeLimit bounds the boot of the probe. With a working accelerator it takes
// about a second.
const probeLimit = 15 * time.Second

// probeKVM boots the nodes' own kernel with the hardware accelerator. The
// device file alone proves nothing: where the machine is itself virtual it may
// be there and not run this kernel.
func (c *Cluster) probeKVM(ctx context.Context, img image.Image) bool {
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	_ = f.Close()
	console := filepath.Join(c.Dir(), "probe.log")
	ctx, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	args := append([]string{"qemu-system-x86_64"}, node.Accelerator(true)...)
	args = append(args,
		"-m", "512", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-serial", "file:"+console, "-kernel", img.Kernel, "-initrd", img.InitRD,
		"-append", "console=ttyS0 quiet panic=-1 "+guest.ProbeArgument)
	return host.Run(ctx, args...) == nil && containsProbeLine(console)
}

// startMachine starts a node's virtual machine.
func (c *Cluster) startMachine(s *state, n topology.Node) (*host.Process, error) {
	rate, err := tsc.KHz()
	if err != nil {
		return nil, err
	}
	m := node.Machine{
		Node:      n,
		Image:     s.Artifacts.Image,
		Disk:      c.path(n.Name, "disk.qcow2"),
		Seed:      c.path(n.Name, "seed.tar"),
		Console:   c.logFile("console-" + n.Name),
		Monitor:   filepath.Join(c.runDir(), n.Name+".qmp"),
		KVM:       s.KVM,
		TSCKHz:    rate,
		MemoryMiB: s.Options.MemoryMiB,
		CPUs:      s.Options.CPUs,
	}
	return c.start(s, machinePart(n), m.Args()...)
}

// PowerOff kills a node's virtual machine at once, like a power failure.
func (c *Cluster) PowerOff(ctx context.Context, name string) error {
	n, err := topology.FindNode(name)
	if err != nil {
		return err
	}
	return c.change(ctx, func(s *state) error {
		p := s.Processes[machinePart(n)]
		if p == nil || !p.Alive() {
			c.report.Printf("%s is off", name)
			return nil
		}
		if err := c.quitMachine(ctx, n, p); err != nil {
			return err
		}
		delete(s.Processes, machinePart(n))
		return c.saveState(s)
	})
}

// quitMachine ends a virtual machine between two instructions. The guest
// notices nothing and its memory is lost, but QEMU writes the disk's tables,
// which a kill would lose together with everything they point to.
func (c *Cluster) quitMachine(ctx context.Context, n topology.Node, p *host.Process) error {
	limit, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if err := qmp.Execute(limit, filepath.Join(c.runDir(), n.Name+".qmp"), "quit"); err != nil {
		return fmt.Errorf("power off %s: %w", n.Name, err)
	}
	if !p.WaitGone(limit) {
		return fmt.Errorf("power off %s: its process %d does not end", n.Name, p.PID)
	}
	return nil
}

// PowerOn starts a node's virtual machine again and waits until one can log in.
func (c *Cluster) PowerOn(ctx context.Context, name string) error {
	n, err := topology.FindNode(name)
	if err != nil {
		return err
	}
	return c.change(ctx, func(s *state) error {
		if p := s.Processes[machinePart(n)]; p != nil && p.Alive() {
			c.report.Printf("%s is on", name)
			return nil
		}
		p, err := c.startMachine(s, n)
		if err != nil {
			return err
		}
		return c.waitLogin(ctx, n, p)
	})
}

// waitLogin waits until a command runs on the node over SSH.
func (c *Cluster) waitLogin(ctx context.Context, n topology.Node, p *host.Process) error {
	cl, err := c.Client()
	if err != nil {
		return err
	}
	defer cl.Close()
	target, err := cl.Node(n.Name)
	if err != nil {
		return err
	}
	console := *p
	console.Log = c.logFile("console-" + n.Name)
	return c.await(ctx, machinePart(n), &console, 3*time.Minute, func(ctx context.Context) error {
		_, err := target.Run(ctx, "true")
		return err
	})
}

// containsProbeLine tells whether the console log at path shows that init ran.
func containsProbeLine(path string) bool {
	content, err := os.ReadFile(path)
	return err == nil && bytes.Contains(content, []byte(guest.ProbeLine))
}
