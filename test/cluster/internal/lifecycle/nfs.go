// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"godwit.dev/godwit/test/cluster/internal/host"
	"godwit.dev/godwit/test/cluster/internal/shell"
	"godwit.dev/godwit/test/cluster/internal/topology"
)

// nfsPart is the name of the NFS server's process.
const nfsPart = "nfs"

func (c *Cluster) volumeMount() string { return c.runDir() + "/volume" }

// createVolume makes the file system behind the shared volume. It is of limited
// size, so that a full volume can be tested without filling the host's disk.
func (c *Cluster) createVolume(ctx context.Context, s *state) error {
	file := c.path("volume.img")
	if err := host.Run(ctx, "mke2fs", "-q", "-t", "ext4", "-m", "0", "-E", "lazy_itable_init=1", file, fmt.Sprintf("%dG", s.Options.VolumeGiB)); err != nil {
		return err
	}
	return os.MkdirAll(c.volumeMount(), 0o700)
}

// serverArgs is the command that mounts the volume in a mount namespace of its
// own and becomes the NFS server there. Mounted on the host, the volume would be
// copied into the mount namespace of every program that is started in any
// cluster's network meanwhile, and stay in use until the last of them ends. Like
// this the mount and its loop device end with the server.
func (c *Cluster) serverArgs(config string) []string {
	server := c.Namespace().Args("ganesha.nfsd", "-F", "-f", config, "-L", "STDERR", "-p", c.runDir()+"/ganesha.pid")
	script := fmt.Sprintf("mount -o loop,noatime,noinit_itable %s %s && exec %s",
		shell.Quote(c.path("volume.img")), shell.Quote(c.volumeMount()), shell.Join(server))
	return []string{"unshare", "--mount", "--propagation", "private", "sh", "-c", script}
}

// nfsConfig is the NFS server's configuration.
func (c *Cluster) nfsConfig() []byte {
	return fmt.Appendf(nil, `NFS_CORE_PARAM {
	Protocols = 4;
	Bind_addr = %s;
	Enable_NLM = false;
	Enable_RQUOTA = false;
	# The page cache belongs to the host; descriptors are cheap.
	Clustered = false;
}
NFSV4 {
	# 2 would offer READ_PLUS, to which this server answers some reads with zeros.
	Minor_Versions = 1;
	RecoveryBackend = fs;
	RecoveryRoot = %s;
	# After a restart clients must be able to take their locks back before
	# others get them; they are two and quick.
	Lease_Lifetime = 20;
	Grace_Period = 25;
	Only_Numeric_Owners = true;
}
MDCACHE {
	# One writer per file, but readers on the other node must see it at once.
	Entries_HWMark = 100000;
}
EXPORT {
	Export_Id = 1;
	Path = %s;
	Pseudo = %s;
	Protocols = 4;
	Transports = TCP;
	Access_Type = RW;
	# Agents write as root; images must stay unreadable for others.
	Squash = No_Root_Squash;
	SecType = sys;
	FSAL { Name = VFS; }
}
LOG { Default_Log_Level = EVENT; }
`, topology.ControlPlaneIP, c.path("nfs-recovery"), c.volumeMount(), topology.NFSExport)
}

// startNFS starts the NFS server: in user space, so that it needs no kernel
// module of the host and stays inside the namespace.
func (c *Cluster) startNFS(s *state) (*host.Process, error) {
	config := c.path("ganesha.conf")
	if err := os.MkdirAll(c.path("nfs-recovery"), 0o700); err != nil {
		return nil, err
	}
	if err := os.WriteFile(config, c.nfsConfig(), 0o600); err != nil {
		return nil, err
	}
	return c.startHost(s, nfsPart, c.serverArgs(config)...)
}

// waitNFS waits until the server accepts connections.
func (c *Cluster) waitNFS(ctx context.Context, p *host.Process) error {
	return c.await(ctx, nfsPart, p, 60*time.Second, func(ctx context.Context) error {
		conn, err := c.Namespace().DialContext(ctx, "tcp", topology.ControlPlaneIP+":2049")
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

// StopNFS stops the NFS server, as a fault.
func (c *Cluster) StopNFS(ctx context.Context) error {
	return c.change(ctx, func(s *state) error {
		p := s.Processes[nfsPart]
		if p == nil || !p.Alive() {
			c.report.Printf("the NFS server is not running")
			return nil
		}
		if err := p.Stop(ctx, syscall.SIGKILL, 10*time.Second); err != nil {
			return err
		}
		delete(s.Processes, nfsPart)
		return c.saveState(s)
	})
}

// StartNFS starts the NFS server again.
func (c *Cluster) StartNFS(ctx context.Context) error {
	return c.change(ctx, func(s *state) error {
		if p := s.Processes[nfsPart]; p != nil && p.Alive() {
			c.report.Printf("the NFS server is running")
			return nil
		}
		if err := c.waitVolumeFree(ctx); err != nil {
			return err
		}
		p, err := c.startNFS(s)
		if err != nil {
			return err
		}
		return c.waitNFS(ctx, p)
	})
}

// ExportDir is the directory of the shared volume as its server sees it, past
// the caches of all clients. It is valid until the server is stopped.
func (c *Cluster) ExportDir() (string, error) {
	s, err := c.loadState()
	if err != nil {
		return "", err
	}
	p := s.Processes[nfsPart]
	if p == nil || !p.Alive() {
		return "", fmt.Errorf("%w: the NFS server of %s", ErrNotRunning, c.Name)
	}
	// The mount is in the server's own mount namespace.
	return fmt.Sprintf("/proc/%d/root%s", p.PID, c.volumeMount()), nil
}

// change runs work on the state of a complete cluster, under the lock.
func (c *Cluster) change(ctx context.Context, work func(*state) error) error {
	lock, err := c.lock(ctx)
	if err != nil {
		return err
	}
	defer lock.Unlock()
	s, err := c.loadState()
	if err != nil {
		return err
	}
	if !s.Ready {
		return fmt.Errorf("%w: the start of %s did not end well", ErrNotRunning, c.Name)
	}
	return work(s)
}

// waitVolumeFree returns once no loop device uses the volume's file. The kernel
// takes a moment to unmount what the ended server had mounted.
func (c *Cluster) waitVolumeFree(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		loops, err := c.loopDevices(ctx)
		if err != nil || len(loops) == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("loop devices still use the volume: %v", loops)
		case <-tick.C:
		}
	}
}

// loopDevices returns the loop devices that still use the volume's file.
func (c *Cluster) loopDevices(ctx context.Context) ([]string, error) {
	if _, err := os.Stat(c.path("volume.img")); errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	out, err := host.Output(ctx, "losetup", "-n", "-O", "NAME", "-j", c.path("volume.img"))
	return strings.Fields(out), err
}
