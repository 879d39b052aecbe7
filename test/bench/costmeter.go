// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	clusterclient "godwit.dev/godwit/test/cluster/client"
	"godwit.dev/godwit/test/harness"
)

// meterNames are what is metered, in the order in which the page has them, with what
// they are for people.
var meterNames = []struct{ name, title string }{
	{"manager", "manager"},
	{"source-agent", "agent of the source"},
	{"source-commands", "its commands: CRIU and runc"},
	{"target-agent", "agent of the target"},
	{"target-commands", "its commands"},
}

const (
	// commandsGroup is the cgroup of the commands that an agent runs on its node. It
	// outlives the agent's pod.
	commandsGroup = "/sys/fs/cgroup/godwit"
	// meterInterval is how often the meters are read; a shorter peak of memory is not
	// seen.
	meterInterval = time.Second
)

// lookScript prints "NAME MICROSECONDS BYTES": the processor time of a cgroup, and its
// memory without the page cache. It starts no program, which would take an emulated
// processor longer than what is measured.
const lookScript = `look() {
	read -r key cpu < "$2/cpu.stat" && [ "$key" = usage_usec ] || { echo "$2/cpu.stat begins with: $key"; return 1; }
	anon=0
	if [ -e "$2/memory.stat" ]; then
		read -r key anon < "$2/memory.stat" && [ "$key" = anon ] || { echo "$2/memory.stat begins with: $key"; return 1; }
	fi
	echo "$1 $cpu $anon"
}`

// reading is what one cgroup has used until now.
type reading struct {
	cpu    time.Duration
	memory int64
}

// parseReadings reads what lookScript prints.
func parseReadings(text string) (map[string]reading, error) {
	all := map[string]reading{}
	for line := range strings.Lines(text) {
		var name string
		var micros, bytes int64
		if _, err := fmt.Sscan(line, &name, &micros, &bytes); err != nil {
			return nil, fmt.Errorf("line %q of the meters: %w", line, err)
		}
		all[name] = reading{time.Duration(micros) * time.Microsecond, bytes}
	}
	return all, nil
}

// nodeMeters reads the meters of one node.
type nodeMeters struct {
	shell  *harness.Shell
	script string
}

type meters []*nodeMeters

func (ms meters) close() {
	for _, n := range ms {
		n.shell.Close()
	}
}

// openMeters finds the cgroups of the manager, of both agents and of their commands.
func (b *bench) openMeters(ctx context.Context, source, target *clusterclient.Node) (meters, error) {
	looks := map[string]string{} // by node
	pod := func(name string, p *corev1.Pod, err error) error {
		if err != nil {
			return err
		}
		c, err := b.Look(p)
		if err != nil {
			return err
		}
		dir, err := c.Cgroup(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		looks[c.Name] += fmt.Sprintf(" && look %s %s", name, dir)
		return nil
	}
	manager, err := b.Manager(ctx)
	err = pod("manager", manager, err)
	for _, end := range []struct {
		name string
		node *clusterclient.Node
	}{{"source", source}, {"target", target}} {
		agent, e := b.AgentOn(ctx, end.node.Name)
		err = errors.Join(err, pod(end.name+"-agent", agent, e))
		looks[end.node.Name] += fmt.Sprintf(" && look %s-commands %s", end.name, commandsGroup)
	}
	if err != nil {
		return nil, err
	}
	var all meters
	for _, n := range []*clusterclient.Node{source, target} {
		all = append(all, &nodeMeters{harness.OpenShell(ctx, n), lookScript + "\ntrue" + looks[n.Name]})
	}
	return all, nil
}

func (ms meters) read(ctx context.Context) (map[string]reading, error) {
	all := map[string]reading{}
	for _, n := range ms {
		out, err := n.shell.Run(ctx, n.script)
		if err != nil {
			return nil, fmt.Errorf("read the meters: %w", err)
		}
		some, err := parseReadings(out)
		if err != nil {
			return nil, err
		}
		for name, r := range some {
			all[name] = r
		}
	}
	return all, nil
}

// spent is what each cgroup has used in a time.
type spent struct {
	took time.Duration
	cpu  map[string]time.Duration
	peak map[string]int64
}

// during reads the meters before, while and after do runs.
func (ms meters) during(ctx context.Context, do func() error) (spent, error) {
	s := spent{cpu: map[string]time.Duration{}, peak: map[string]int64{}}
	var first, last map[string]reading
	look := func() (err error) {
		if last, err = ms.read(ctx); err != nil {
			return err
		}
		for name, r := range last {
			s.peak[name] = max(s.peak[name], r.memory)
		}
		return nil
	}
	if err := look(); err != nil {
		return s, err
	}
	first = last
	begun := time.Now()
	done := make(chan error, 1)
	go func() { done <- do() }()
	tick := time.NewTicker(meterInterval)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			if err = errors.Join(err, look()); err != nil {
				return s, err
			}
			s.took = time.Since(begun)
			for name, r := range last {
				s.cpu[name] = r.cpu - first[name].cpu
			}
			return s, nil
		case <-tick.C:
			if err := look(); err != nil {
				return s, errors.Join(err, <-done)
			}
		}
	}
}

// usage is what a migration takes of a node.
type usage struct {
	CPUSeconds float64 `json:"cpuSeconds"`
	// IdleCPU is how much of a processor is used when nothing is migrated.
	IdleCPU float64 `json:"idleCPU"`
	// PeakBytes of memory without the page cache, IdleBytes when nothing is migrated.
	PeakBytes int64 `json:"peakBytes,omitempty"`
	IdleBytes int64 `json:"idleBytes,omitempty"`
}

func usages(idle, used spent) map[string]usage {
	all := map[string]usage{}
	for name, cpu := range used.cpu {
		all[name] = usage{
			CPUSeconds: cpu.Seconds(), IdleCPU: idle.cpu[name].Seconds() / idle.took.Seconds(),
			PeakBytes: used.peak[name], IdleBytes: idle.peak[name],
		}
	}
	return all
}
