// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/test/harness"
)

// leftoverScript prints a line for everything on a node that a migration must
// not leave behind, and one for each copy of the workload.
const leftoverScript = `shopt -s nullglob
for e in ` + harness.ImagesDir + `/*; do case ${e##*/} in lost+found) ;; *) echo "image ${e##*/}";; esac; done
for e in /run/godwit/work/*; do echo "work directory ${e##*/}"; done
for e in /dev/shm/godwit/*; do echo "merged rounds ${e##*/}"; done
for e in /var/lib/godwit/guarded/*.json; do echo "guarded pod ${e##*/}"; done
for e in /run/godwit/held/*.json; do echo "record of a freeze ${e##*/}"; done
for e in /run/godwit/restoring/*; do echo "record of a restore ${e##*/}"; done
for d in /sys/fs/cgroup/kubepods.slice/*/cri-containerd-*.scope /sys/fs/cgroup/kubepods.slice/*/*/cri-containerd-*.scope; do
	read -r f < $d/cgroup.freeze && [ "$f" = 0 ] || echo "frozen cgroup ${d##*/}"
	for pid in $(cat $d/cgroup.procs); do
		[ "$(cat /proc/$pid/comm)" = sequence ] || continue
		echo "process $pid in ${d##*/}"
		read -r quota _ < $d/cpu.max && [ "$quota" = max ] || echo "throttled cgroup ${d##*/}"
	done
done 2>/dev/null
for p in $(pgrep -x sequence); do case $(cat /proc/$p/cgroup) in *kubepods*) ;; *) echo "process $p outside of a pod";; esac; done 2>/dev/null
for n in /run/netns/*; do nsenter --net=$n nft list tables | grep -q "godwit" && echo "network drop in ${n##*/}"; done 2>/dev/null
for p in $(pgrep -x godwit-runc); do tr "\0" " " < /proc/$p/cmdline | grep -q " create " && echo "wrapper $p"; done 2>/dev/null
for p in $(pgrep -x runc); do tr "\0" " " < /proc/$p/cmdline | grep -Eq " (restore|checkpoint) " && echo "runc $p"; done 2>/dev/null
for p in $(pgrep -x criu); do echo "criu $p"; done
while read -r _ _ _ _ m _; do case $m in /run/godwit/work/*) echo "mount $m";; esac; done < /proc/self/mountinfo
true`

// leftovers looks until nothing is left or time is up, and returns what is.
func (r *run) leftovers(ctx context.Context) ([]string, error) {
	limit := time.Now().Add(cleanLimit)
	for {
		left, err := r.lookForLeftovers(ctx)
		if err != nil || len(left) == 0 || time.Now().After(limit) || ctx.Err() != nil {
			return left, err
		}
		// Agents clean up at their own pace, and a node's files cannot be watched
		// from here.
		sleep(ctx, time.Second)
	}
}

func (r *run) lookForLeftovers(ctx context.Context) ([]string, error) {
	var left, processes []string
	nodes := r.Nodes.Nodes()
	outs := make([]string, len(nodes))
	g, gctx := errgroup.WithContext(ctx)
	for i, n := range nodes {
		g.Go(func() (err error) {
			outs[i], err = n.Output(gctx, leftoverScript)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("look for leftovers: %w", err)
	}
	for i, n := range nodes {
		for line := range strings.Lines(outs[i]) {
			line = strings.TrimSpace(line)
			switch {
			case line == "":
			case strings.HasPrefix(line, "image "):
				if !slices.Contains(left, line) { // both nodes see the volume
					left = append(left, line)
				}
			case strings.HasPrefix(line, "process ") && strings.Contains(line, " in "):
				processes = append(processes, n.Name+": "+line)
			default:
				left = append(left, n.Name+": "+line)
			}
		}
	}
	if len(processes) != 1 {
		left = append(left, fmt.Sprintf("%d processes of the workload: %s", len(processes), strings.Join(processes, "; ")))
	}
	var all v1alpha1.MigrationList
	if err := r.List(ctx, &all); err != nil {
		return nil, err
	}
	for _, m := range all.Items {
		left = append(left, "Migration "+m.Name)
	}
	return left, nil
}
