// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	clusterclient "godwit.dev/godwit/test/cluster/client"
)

// A copy runs when one of its processes could be scheduled: it is not frozen,
// not held by a tracer as CRIU's are, not stopped and not about to end.
//
// The script uses nothing but the shell's own commands: starting a program takes
// an emulated processor longer than the pause between two looks.
const watchScript = `cd / && shopt -s nullglob && exec 9<> <(:)
while :; do
	now=$EPOCHREALTIME out=
	for d in /sys/fs/cgroup/kubepods.slice/*/cri-containerd-*.scope /sys/fs/cgroup/kubepods.slice/*/*/cri-containerd-*.scope; do
		{ mapfile -t pids < $d/cgroup.procs; } 2>/dev/null || continue
		for pid in ${pids[@]}; do
			comm= state= flags=4 tracer=1 frozen=1
			{ read -r comm < /proc/$pid/comm; } 2>/dev/null
			[ "$comm" = sequence ] || continue
			{ while read -r k v; do case $k in frozen) frozen=$v;; esac; done < $d/cgroup.events; } 2>/dev/null
			{ while read -r k v; do case $k in TracerPid:) tracer=$v; break;; esac; done < /proc/$pid/status; } 2>/dev/null
			{ read -r _ _ state _ _ _ _ _ flags _ < /proc/$pid/stat; } 2>/dev/null
			case $state in R|S|D) ;; *) continue;; esac
			[ "$frozen$tracer" = 00 ] && [ $((flags & 4)) = 0 ] && out="$out ${d##*/}/$pid"
		done
	done
	echo "$now$out" || exit
	read -r -t 0.5 -u 9
done`

// look is one look at a node: which copies run.
type look struct {
	at      time.Time
	running []string
}

// parseLook reads "1700000000.123456 COPY COPY".
func parseLook(line string) (look, error) {
	f := strings.Fields(line)
	if len(f) == 0 {
		return look{}, fmt.Errorf("an empty look")
	}
	micros, err := strconv.ParseInt(strings.Replace(f[0], ".", "", 1), 10, 64)
	if err != nil {
		return look{}, fmt.Errorf("look %q: %w", line, err)
	}
	return look{at: time.UnixMicro(micros), running: f[1:]}, nil
}

// stretch is a time in which a copy was seen running by two looks in a row: a
// process that is being killed is not seen twice.
type stretch struct {
	copy     string
	from, to time.Time
}

// stretches joins the looks at one node.
func stretches(node string, looks []look) []stretch {
	var all []stretch
	open := map[string]int{}
	for i := 1; i < len(looks); i++ {
		still := map[string]int{}
		for _, c := range looks[i].running {
			if !contains(looks[i-1].running, c) {
				continue
			}
			n, was := open[c]
			if !was {
				n = len(all)
				all = append(all, stretch{copy: node + "/" + c, from: looks[i-1].at})
			}
			all[n].to = looks[i].at
			still[c] = n
		}
		open = still
	}
	return all
}

func contains(list []string, s string) bool {
	for _, other := range list {
		if other == s {
			return true
		}
	}
	return false
}

// mostAtOnce is the most stretches of different copies that share a moment.
func mostAtOnce(all []stretch) int {
	most := 0
	for _, at := range all {
		n := 0
		for _, s := range all {
			// Half open: one that ends where another begins does not share it.
			if !s.from.After(at.from) && s.to.After(at.from) {
				n++
			}
		}
		most = max(most, n)
	}
	return most
}

// watcher looks at the nodes while a run goes on.
type watcher struct {
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu    sync.Mutex
	looks map[string][]look
}

func newWatcher(ctx context.Context) *watcher {
	ctx, cancel := context.WithCancel(ctx)
	return &watcher{ctx: ctx, cancel: cancel, looks: map[string][]look{}}
}

// follow looks at a node until the watcher stops or the node is gone. A node
// that comes back has to be followed anew.
func (w *watcher) follow(n *clusterclient.Node) {
	r, out := io.Pipe()
	w.wg.Go(func() {
		_, err := n.Stream(w.ctx, "exec bash -c '"+watchScript+"'", nil, out, nil)
		_ = out.CloseWithError(err)
	})
	w.wg.Go(func() {
		lines := bufio.NewScanner(r)
		for lines.Scan() {
			l, err := parseLook(lines.Text())
			if err != nil {
				continue // cut off by the end of the node
			}
			w.mu.Lock()
			w.looks[n.Name] = append(w.looks[n.Name], l)
			w.mu.Unlock()
		}
	})
}

// stop ends the watching and returns the most copies ever seen running at once,
// and the number of looks.
func (w *watcher) stop() (most, looks int) {
	w.cancel()
	w.wg.Wait()
	var all []stretch
	for node, l := range w.looks {
		looks += len(l)
		all = append(all, stretches(node, l)...)
	}
	return mostAtOnce(all), looks
}
