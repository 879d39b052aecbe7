// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Sample is one look at a container's cgroup.
type Sample struct {
	// Node is when the look was taken, by the node's clock, and Received when
	// its result arrived here.
	Node, Received time.Time
	// Gone: the cgroup does not exist.
	Gone bool
	// Frozen is what cgroup.events says: every task is frozen.
	Frozen bool
	// Traced: a process is held by another with ptrace, as CRIU does during a
	// dump. It thaws a frozen cgroup for as long as it holds the tasks.
	Traced bool
	// Processes in the cgroup.
	Processes int
	// CPU time the cgroup has used in all its life.
	CPU time.Duration
}

// Sampler looks at a container's cgroup on its node again and again.
type Sampler struct {
	stop context.CancelFunc
	done chan struct{}

	mu      sync.Mutex
	samples []Sample
	err     error
	changed chan struct{}
}

// sampleScript uses nothing but the shell's own commands: starting a program
// takes an emulated processor longer than the pause between two looks. It ends
// when its cgroup has been gone for a while, or when nobody reads it any more.
//
// The freezer is looked at before and after the tracer: CRIU takes the tasks
// before it thaws them, and freezes them before it lets them go.
const sampleScript = `cd / && exec 9<> <(:)
events() { while read -r k v; do case $k in frozen) frozen=$v;; esac; done < "$cg/cgroup.events"; }
gone=0
while [ $gone -lt 20 ]; do
	frozen= usage= n=0 tracer=0
	now=$EPOCHREALTIME
	events 2>/dev/null
	{ while read -r pid; do n=$((n+1)) last=$pid; done < "$cg/cgroup.procs"; } 2>/dev/null
	if [ "$frozen" = 0 ] && [ $n -gt 0 ]; then
		{ while read -r k v; do case $k in TracerPid:) tracer=$v; break;; esac; done < /proc/$last/status; } 2>/dev/null
		[ "$tracer" != 0 ] || events 2>/dev/null
	fi
	{ read -r k usage < "$cg/cpu.stat"; } 2>/dev/null
	[ -n "$frozen" ] || gone=$((gone+1))
	echo "$now ${frozen:-gone} $n ${usage:-0} $tracer" || exit
	read -r -t 0.05 -u 9
done`

// Sample starts to look at the container, which must run.
func (c OnNode) Sample(ctx context.Context) (*Sampler, error) {
	dir, err := c.Cgroup(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &Sampler{stop: cancel, done: make(chan struct{}), changed: make(chan struct{})}
	r, w := io.Pipe()
	go func() {
		code, err := c.Stream(ctx, "cg='"+dir+"' exec bash -c '"+sampleScript+"'", nil, w, nil)
		if err == nil && code != 0 {
			err = fmt.Errorf("the sampling script ended with exit code %d", code)
		}
		_ = w.CloseWithError(err)
	}()
	go s.receive(r)
	return s, nil
}

func (s *Sampler) receive(r io.Reader) {
	defer close(s.done)
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		sample, err := parseSample(lines.Text())
		s.mu.Lock()
		if err != nil {
			s.err = err
		} else {
			sample.Received = time.Now()
			s.samples = append(s.samples, sample)
		}
		close(s.changed)
		s.changed = make(chan struct{})
		s.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// parseSample reads "1700000000.123456 1 2 345 0": time, frozen or "gone",
// number of processes, microseconds of CPU time, tracer.
func parseSample(line string) (Sample, error) {
	f := strings.Fields(line)
	if len(f) != 5 {
		return Sample{}, fmt.Errorf("sample %q has %d fields", line, len(f))
	}
	var numbers [5]int64
	for i, text := range f {
		if i == 1 {
			continue
		}
		n, err := strconv.ParseInt(strings.Replace(text, ".", "", 1), 10, 64)
		if err != nil {
			return Sample{}, fmt.Errorf("sample %q: %w", line, err)
		}
		numbers[i] = n
	}
	return Sample{
		Node: time.UnixMicro(numbers[0]), Gone: f[1] == "gone", Frozen: f[1] == "1", Traced: numbers[4] != 0,
		Processes: int(numbers[2]), CPU: time.Duration(numbers[3]) * time.Microsecond,
	}, nil
}

// Await returns when the newest sample is as cond says.
func (s *Sampler) Await(ctx context.Context, what string, cond func(Sample) bool) error {
	for {
		s.mu.Lock()
		n, changed, err := len(s.samples), s.changed, s.err
		if n > 0 && cond(s.samples[n-1]) {
			s.mu.Unlock()
			return nil
		}
		s.mu.Unlock()
		if err != nil {
			return err
		}
		select {
		case <-changed:
		case <-s.done:
			return fmt.Errorf("wait for %s: the sampling ended", what)
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, context.Cause(ctx))
		}
	}
}

// Stop ends the sampling and returns all samples, oldest first.
func (s *Sampler) Stop() ([]Sample, error) {
	s.stop()
	<-s.done
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.samples, s.err
}
