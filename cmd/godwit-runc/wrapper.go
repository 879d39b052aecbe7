// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os/exec"
	"time"
)

// limits are the times a create may take.
type limits struct {
	// create bounds parking and restoring together, counted from the beginning.
	// kubelet gives up after two minutes, and then kills the wrapper before it
	// could clean up.
	create time.Duration
	// park is when a create that is still parked ends, counted from the beginning.
	// The agent gives it back earlier unless it hangs; a restore that is ordered
	// at the last moment still has its time.
	park time.Duration
	// answer bounds the wait for the agent's first reply.
	answer time.Duration
	// agent is how long a container that belongs to a migration waits for an
	// agent that is not there (it may be starting again) before it fails.
	agent time.Duration
	// cleanup bounds each step of ending a restore: the processes in its
	// cgroup, runc itself, the removal of what it left.
	cleanup time.Duration
	// report bounds each of the two ways to tell the agent of a restore. It can be
	// short: an agent that is not there finds all of it on the node.
	report time.Duration
}

var defaultLimits = limits{
	create:  95 * time.Second,
	park:    65 * time.Second,
	answer:  10 * time.Second,
	agent:   20 * time.Second,
	cleanup: 4 * time.Second,
	report:  2 * time.Second,
}

// wrapper decorates runc.
type wrapper struct {
	runc Runtime
	// runDir is the agent's directory on the node.
	runDir string
	// cgroupRoot is where cgroup v2 is mounted.
	cgroupRoot string
	limits     limits
	// began is when the create began: what its limits count from.
	began time.Time
}

var _ Runtime = (*wrapper)(nil)

// Exec hands everything to runc but the few verbs that a restore changes. An
// error means that nothing was handed on. It returns nil when there is nothing
// left to do.
func (w *wrapper) Exec(args []string) error {
	c, err := parseCommand(args)
	if err != nil {
		return err
	}
	forward := true
	switch c.verb {
	case "create":
		forward, err = w.create(c)
	case "start":
		forward, err = w.start(c)
	case "delete":
		err = w.beforeDelete(c)
	}
	if err != nil || !forward {
		return err
	}
	return w.runc.Exec(args)
}

// Command prepares runc itself as a child process.
func (w *wrapper) Command(args ...string) *exec.Cmd { return w.runc.Command(args...) }
