// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	clusterclient "godwit.dev/godwit/test/cluster/client"
	"godwit.dev/godwit/test/harness"
)

const (
	// handDir has the programs on the nodes, at the same path on both: CRIU looks for
	// the files of a process where they were.
	handDir = "/opt/godwit-bench"
	// handWork is CRIU's work directory, in memory: logs and statistics are no part
	// of what is on the volume.
	handWork = "/run/godwit-bench/work"
	// handRunc is runc's state.
	handRunc = "/run/godwit-bench/runc"
	// handImages are on the volume that Godwit's images are on. No Migration has such
	// a name, so that no agent sweeps it away.
	handImages = harness.ImagesDir + "/.bench"
	// handPages is phaul's, which keeps pages on the nodes.
	handPages = handDir + "/phaul-images"
	// handPort is the test server's port on the nodes, phaulPort that of phaul.
	handPort  = "18080"
	phaulPort = "18090"
)

// cleanScript leaves nothing behind of what moved by hand, and is repeated freely.
const cleanScript = `for p in $(pgrep -x memhog); do
	case $(readlink /proc/$p/exe) in
	` + handDir + `/*) kill -9 $p && timeout 10 tail --pid=$p -s 0.1 -f /dev/null ;;
	esac
done
[ ! -d ` + handRunc + `/bench ] || runc --root ` + handRunc + ` delete --force bench
` + cleanPodman + `
rm -rf ` + handWork + ` ` + handPages + `
mkdir -p ` + handWork + ` ` + handPages + ` ` + handRunc

// cleanImages does the same for the volume, on one node.
const cleanImages = "mkdir -p " + handImages + " && rm -rf " + handImages + "/*"

// equip puts the programs on the nodes. What is started on the first gets process ids
// from the upper half of all, so that CRIU finds the same ones free on the second.
func (b *bench) equip(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, n := range b.Nodes.Nodes() {
		g.Go(func() error {
			for _, program := range []string{"memhog", "phaul"} {
				if err := n.CopyTo(ctx, filepath.Join(b.NodeTests, program), handDir+"/"+program); err != nil {
					return fmt.Errorf("copy %s to %s: %w", program, n.Name, err)
				}
			}
			line := cleanScript
			if n.Name == firstNode {
				line = "echo $(($(cat /proc/sys/kernel/pid_max) / 2)) > /proc/sys/kernel/ns_last_pid\n" + line + "\n" + cleanImages
			}
			_, err := n.Output(ctx, line)
			return err
		})
	}
	return g.Wait()
}

// hand is a move by hand, from the first node to the other.
type hand struct {
	*bench
	cell           cell
	from, to       *clusterclient.Node
	source, target *harness.Shell
	chain          chain
}

// byHand lets do move a process by hand, and then checks that it is the same process
// on the other node. do starts it with h.memhog or a program of its own, calls
// h.ready before it begins to move, and returns when the process runs again.
func (b *bench) byHand(ctx context.Context, c cell, r *result, do func(ctx context.Context, h *hand) error) (err error) {
	if err := b.quiet(ctx); err != nil {
		return err
	}
	// A name that the other node has never looked for: it may remember what it did or
	// did not find.
	b.number++
	h := &hand{bench: b, cell: c, chain: chain{images: fmt.Sprintf("%s/%s-%d", handImages, strings.ReplaceAll(b.run, ":", ""), b.number), work: handWork}}
	h.from, h.to = b.ends(firstNode)
	r.From, r.To = h.from.Name, h.to.Name
	h.source, h.target = harness.OpenShell(ctx, h.from), harness.OpenShell(ctx, h.to)
	defer h.source.Close()
	defer h.target.Close()
	if err := h.clean(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.clean(ctx)) }()
	return do(ctx, h)
}

// both runs a line on both nodes at the same time.
func (h *hand) both(ctx context.Context, line string) error {
	var g errgroup.Group
	for _, s := range []*harness.Shell{h.source, h.target} {
		g.Go(func() error {
			_, err := s.Run(ctx, line)
			return err
		})
	}
	return g.Wait()
}

func (h *hand) clean(ctx context.Context) error {
	err := h.both(ctx, cleanScript)
	if err == nil {
		_, err = h.source.Run(ctx, cleanImages)
	}
	if err != nil {
		return fmt.Errorf("clean up: %w", err)
	}
	return nil
}

// environment of the test server. Left to itself, Go keeps a file of the cgroup open,
// which is another one on the other node.
func (c cell) environment() []string {
	pattern := c.Pattern
	if pattern == "" {
		pattern = "none"
	}
	return []string{
		fmt.Sprintf("SIZE_MIB=%d", c.SizeMiB), fmt.Sprintf("DIRTY_MIB_PER_SECOND=%g", c.mibPerSecond()),
		"PATTERN=" + pattern, "LISTEN=:" + handPort, "GODEBUG=containermaxprocs=0",
	}
}

// memhog starts the test server as a process of nobody: in a session of its own, with
// nothing open, child of process 1. It returns its process id.
func (h *hand) memhog(ctx context.Context) (pid string, err error) {
	line := "cd / && { env -i " + strings.Join(h.cell.environment(), " ") + " setsid " + handDir + "/memhog </dev/null >/dev/null 2>&1 & echo $!; }"
	if pid, err = h.source.Run(ctx, line); err != nil {
		return "", fmt.Errorf("start the process: %w", err)
	}
	return pid, nil
}

func server(n *clusterclient.Node) harness.Memhog {
	return harness.Memhog{Address: net.JoinHostPort(n.IP, handPort)}
}

// ready returns once the process on the first node has its memory and its load.
func (h *hand) ready(ctx context.Context) (harness.MemhogStatus, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, settleLimit, fmt.Errorf("not within %s", settleLimit))
	defer cancel()
	status, err := server(h.from).AwaitAnswer(ctx)
	if err != nil {
		return status, err
	}
	return status, server(h.from).Order(ctx, "/gap/reset")
}

// arrived reads what the process has seen of its move. Its memory is looked at as
// well: a floor that lost some would be none.
func (h *hand) arrived(ctx context.Context, was harness.MemhogStatus, r *result) error {
	limited, cancel := context.WithTimeoutCause(ctx, settleLimit, fmt.Errorf("not within %s", settleLimit))
	defer cancel()
	now, err := server(h.to).AwaitAnswer(limited)
	if err != nil {
		return err
	}
	r.ProcessGapSeconds, r.MonotonicGapSeconds = now.LongestWallGap.Seconds(), now.LongestGap.Seconds()
	if err := sameProcess(was, now); err != nil {
		return err
	}
	memory, err := server(h.to).Verify(ctx)
	if err != nil {
		return err
	}
	r.Memory, r.Checksum = memoryKept, memory.Checksum
	return nil
}

// timed runs a line on a node and says how long that took.
func timed(ctx context.Context, s *harness.Shell, line string) (time.Duration, error) {
	begun := time.Now()
	_, err := s.Run(ctx, line)
	return time.Since(begun), err
}

// written is the size of all files below a directory of a node.
func written(ctx context.Context, s *harness.Shell, dir string) (int64, error) {
	out, err := s.Run(ctx, "du -sb "+dir+" | cut -f 1")
	if err != nil {
		return 0, err
	}
	var n int64
	if _, err := fmt.Sscan(out, &n); err != nil {
		return 0, fmt.Errorf("size of %s: %q: %w", dir, out, err)
	}
	return n, nil
}
