// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Package criu copies containers with the node's CRIU and runc: pre-dumps by
// talking to `criu swrk`, the final dump by `runc checkpoint`, which knows what
// of the container comes from outside (bind mounts, namespaces, masked paths).
package criu

import (
	"context"
	"sync"
	"time"

	"godwit.dev/godwit/internal/wire"
	"godwit.dev/godwit/node-agent/runtime"
	"godwit.dev/godwit/node-agent/runtime/cgroup"
	"godwit.dev/godwit/node-agent/runtime/host"
	"godwit.dev/godwit/node-agent/runtime/watches"
)

// Both are beside the wrapper.
const (
	DefaultActionScript = "/opt/godwit/bin/" + wire.ActionScriptName
	DefaultStandIn      = "/opt/godwit/bin/" + wire.StandInDir
)

// Options configure a Runtime. Only Host is required.
type Options struct {
	// Host is the node.
	Host *host.Host
	// Cgroup freezes and kills; default cgroup.New with its defaults.
	Cgroup *cgroup.Control
	// CRIU and Runc are the commands on the node. Default "criu" and "runc".
	CRIU, Runc string
	// RuncRoot is the directory of runc's state. Default is containerd's for
	// the namespace of Kubernetes.
	RuncRoot string
	// GhostLimit is the largest unlinked but still open file that goes into a
	// dump, in bytes. CRIU's own default of 1 MiB is too small for databases.
	// Default 64 MiB.
	GhostLimit int64
	// ActionScript is where wire.ActionScript is installed on the node. Where it is
	// not, a dump is started only after its container was frozen. Default
	// DefaultActionScript.
	ActionScript string
	// StandIn is the directory of the node with the stand-in for CRIU, which shortens
	// the log of the final dump. Where it is not, the dump takes longer. Default
	// DefaultStandIn.
	StandIn string
	// SeizeTimeout bounds how long CRIU may take to stop the tasks. Default 10 s.
	SeizeTimeout time.Duration
}

// Runtime implements runtime.Checkpointer, runtime.DirtyCounter,
// runtime.Killer and runtime.NodeProber.
type Runtime struct {
	o Options

	// runcFlags are the flags that the node's `runc checkpoint` knows.
	runcFlags func() (map[string]bool, error)

	mu sync.Mutex
	// splice holds the containers for which a dump failed after pre-dumps in
	// mode READ: their next chain uses mode SPLICE.
	splice map[string]bool
	// watches that were found, by container.
	watches map[string]map[watches.Watch]string
}

var (
	_ runtime.Checkpointer = (*Runtime)(nil)
	_ runtime.DirtyCounter = (*Runtime)(nil)
	_ runtime.Killer       = (*Runtime)(nil)
	_ runtime.NodeProber   = (*Runtime)(nil)
)

// New returns a Runtime. It starts nothing.
func New(o Options) *Runtime {
	if o.Cgroup == nil {
		o.Cgroup = cgroup.New(cgroup.Options{Host: o.Host})
	}
	if o.CRIU == "" {
		o.CRIU = "criu"
	}
	if o.Runc == "" {
		o.Runc = "runc"
	}
	if o.RuncRoot == "" {
		o.RuncRoot = "/run/containerd/runc/k8s.io"
	}
	if o.GhostLimit == 0 {
		o.GhostLimit = 64 << 20
	}
	if o.ActionScript == "" {
		o.ActionScript = DefaultActionScript
	}
	if o.StandIn == "" {
		o.StandIn = DefaultStandIn
	}
	if o.SeizeTimeout == 0 {
		o.SeizeTimeout = 10 * time.Second
	}
	r := &Runtime{o: o, splice: map[string]bool{}, watches: map[string]map[watches.Watch]string{}}
	r.runcFlags = onceOK(r.readRuncFlags)
	return r
}

// Signal sends a signal to the container's init process.
func (r *Runtime) Signal(ctx context.Context, c runtime.Container, sig int) error {
	return r.o.Cgroup.Signal(ctx, c, sig)
}

// Kill ends all tasks of the container at once, frozen or not.
func (r *Runtime) Kill(ctx context.Context, c runtime.Container) error {
	return r.o.Cgroup.Kill(ctx, c)
}

// onceOK remembers the first success of f.
func onceOK[T any](f func() (T, error)) func() (T, error) {
	var mu sync.Mutex
	var known bool
	var value T
	return func() (T, error) {
		mu.Lock()
		defer mu.Unlock()
		if known {
			return value, nil
		}
		v, err := f()
		if err == nil {
			value, known = v, true
		}
		return v, err
	}
}
