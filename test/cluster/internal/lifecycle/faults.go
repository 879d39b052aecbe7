// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"godwit.dev/godwit/test/cluster/internal/controlplane"
	"godwit.dev/godwit/test/cluster/internal/host"
	"godwit.dev/godwit/test/cluster/internal/topology"
)

const apiPart = "kube-apiserver"

// PauseAPI makes the API server stand still, as a fault: connections stay open
// and nothing answers.
func (c *Cluster) PauseAPI(ctx context.Context) error { return c.signalAPI(ctx, syscall.SIGSTOP) }

// ResumeAPI lets a paused API server go on.
func (c *Cluster) ResumeAPI(ctx context.Context) error { return c.signalAPI(ctx, syscall.SIGCONT) }

func (c *Cluster) signalAPI(ctx context.Context, sig syscall.Signal) error {
	return c.change(ctx, func(s *state) error {
		p := s.Processes[apiPart]
		if p == nil || !p.Alive() {
			return fmt.Errorf("%w: the API server has ended", ErrNotRunning)
		}
		return p.Signal(sig)
	})
}

// RestartAPI kills the API server, as a fault, starts it again and returns when
// it is ready.
func (c *Cluster) RestartAPI(ctx context.Context) error {
	return c.change(ctx, func(s *state) error {
		if p := s.Processes[apiPart]; p != nil {
			if err := p.Stop(ctx, syscall.SIGKILL, 10*time.Second); err != nil {
				return err
			}
		}
		for _, part := range c.parts(s) {
			if part.Name != apiPart {
				continue
			}
			p, err := c.start(s, part.Name, part.Args...)
			if err != nil {
				return err
			}
			return c.waitAPI(ctx, p)
		}
		return fmt.Errorf("the control plane has no %s", apiPart)
	})
}

func (c *Cluster) parts(s *state) []controlplane.Part {
	return controlplane.Parts(controlplane.Paths{
		Kubernetes: s.Artifacts.Kubernetes, Etcd: s.Artifacts.Etcd, CoreDNS: s.Artifacts.CoreDNS,
		PKI: c.path("pki"), Data: c.path("control-plane"),
	})
}

// filler is the file that fills the shared volume. It lies in a directory that
// is there anyway and holds no images.
const filler = "lost+found/filler"

// fillSlack is what may stay free beyond what FillVolume is told to leave: the
// file system keeps a little for its own records.
const fillSlack = 1 << 20

// FillVolume leaves about the given number of bytes free on the shared volume, as
// a fault.
func (c *Cluster) FillVolume(ctx context.Context, leave int64) error {
	return c.onVolume(ctx, func(run func(args ...string) (string, error), mount string) error {
		free, err := freeBytes(run, mount)
		if err != nil || free <= leave {
			return err
		}
		// Others write meanwhile, so the last blocks may be gone already. What counts
		// is what is free afterwards.
		_, ferr := run("fallocate", "-l", strconv.FormatInt(free-leave, 10), filepath.Join(mount, filler))
		if free, err = freeBytes(run, mount); err != nil {
			return errors.Join(err, ferr)
		}
		if free > leave+fillSlack {
			return errors.Join(fmt.Errorf("the volume still has %d bytes free", free), ferr)
		}
		return nil
	})
}

func freeBytes(run func(args ...string) (string, error), mount string) (int64, error) {
	out, err := run("stat", "-f", "-c", "%a %S", mount)
	if err != nil {
		return 0, err
	}
	blocks, size, ok := strings.Cut(strings.TrimSpace(out), " ")
	free, err := strconv.ParseInt(blocks, 10, 64)
	unit, uerr := strconv.ParseInt(size, 10, 64)
	if err = errors.Join(err, uerr); err != nil || !ok {
		return 0, fmt.Errorf("free space of the volume: %q: %w", out, err)
	}
	return free * unit, nil
}

// FreeVolume takes back what FillVolume has filled.
func (c *Cluster) FreeVolume(ctx context.Context) error {
	return c.onVolume(ctx, func(run func(args ...string) (string, error), mount string) error {
		_, err := run("rm", "-f", filepath.Join(mount, filler))
		return err
	})
}

// onVolume runs commands where the shared volume is mounted: in the mount
// namespace of its server.
func (c *Cluster) onVolume(ctx context.Context, work func(run func(args ...string) (string, error), mount string) error) error {
	return c.change(ctx, func(s *state) error {
		p := s.Processes[nfsPart]
		if p == nil || !p.Alive() {
			return fmt.Errorf("%w: the NFS server has ended", ErrNotRunning)
		}
		enter := []string{"nsenter", "--mount", "--target", strconv.Itoa(p.PID), "--"}
		return work(func(args ...string) (string, error) {
			return host.Output(ctx, append(enter, args...)...)
		}, c.volumeMount())
	})
}

// cutTable is the nftables table that cuts nodes off.
const cutTable = "godwit_cut"

// CutAPI cuts a node and its pods off from the API server, as a fault. What was
// connected stays connected and hears nothing more. Everything else, the shared
// volume included, is still reached.
func (c *Cluster) CutAPI(ctx context.Context, name string) error {
	n, err := topology.FindNode(name)
	if err != nil {
		return err
	}
	rules := fmt.Sprintf(`table inet %[1]s
delete table inet %[1]s
table inet %[1]s {
	chain to_api { type filter hook input priority -400; ip saddr { %[2]s, %[3]s } tcp dport %[4]d drop; }
	chain from_api { type filter hook output priority -400; ip daddr { %[2]s, %[3]s } tcp sport %[4]d drop; }
}
`, cutTable, n.IP, n.PodCIDR, topology.APIPort)
	return host.Command{Args: c.Namespace().Args("nft", "-f", "-"), Stdin: strings.NewReader(rules)}.Run(ctx)
}

// HealAPI takes back what CutAPI has done.
func (c *Cluster) HealAPI(ctx context.Context) error {
	rules := fmt.Sprintf("table inet %[1]s\ndelete table inet %[1]s\n", cutTable)
	return host.Command{Args: c.Namespace().Args("nft", "-f", "-"), Stdin: strings.NewReader(rules)}.Run(ctx)
}
