// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Package fake is a node in memory: it implements all interfaces of package
// runtime, keeps their contracts (it passes runtimetest) and lets a test set
// errors, hold calls up and look at what was called.
//
// Its containers are processes that only count. The count is part of a dump, so
// a test can tell whether a restored process went on exactly where it stopped,
// or ran twice, or lost something.
package fake

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"godwit.dev/godwit/node-agent/runtime"
)

// PageSize of the fake's memory in bytes.
const PageSize = 4096

// Call is a recorded call.
type Call struct {
	// Method is the name of the interface's method.
	Method string
	// Container is the id the call was for, "" if none.
	Container string
	// Options of a PreDump or Dump.
	Options runtime.DumpOptions
	// Pack are the options of a Pack.
	Pack runtime.PackOptions
	// Signal of a Signal.
	Signal int
}

// Runtime is the fake node. Its zero value is unusable; see New.
type Runtime struct {
	mu         sync.Mutex
	now        func() time.Time
	containers map[string]*Container
	images     map[string]bool
	errs       map[string][]error
	calls      []Call
	hooks      map[string]func(ctx context.Context, id string) error
	probe      runtime.Probe
	discarded  []string
	guarded    map[string]runtime.Guarded
	// volumes are emptyDirs, by their tree's directory.
	volumes map[string]map[string]string
	// dumping are the dumps under way, by container; closed when one ends.
	dumping map[string]chan struct{}
	// holds are addresses that are held, by migration.
	holds map[string][]netip.Addr
}

// Interfaces that the fake implements.
var (
	_ runtime.Finder       = (*Runtime)(nil)
	_ runtime.Checkpointer = (*Runtime)(nil)
	_ runtime.Freezer      = (*Runtime)(nil)
	_ runtime.Isolator     = (*Runtime)(nil)
	_ runtime.Holder       = (*Runtime)(nil)
	_ runtime.Separator    = (*Runtime)(nil)
	_ runtime.DirtyCounter = (*Runtime)(nil)
	_ runtime.Killer       = (*Runtime)(nil)
	_ runtime.Guard        = (*Runtime)(nil)
	_ runtime.Files        = (*Runtime)(nil)
	_ runtime.Inspector    = (*Runtime)(nil)
	_ runtime.NodeProber   = (*Runtime)(nil)
)

// New returns a node without containers that has dirty tracking.
func New() *Runtime {
	return &Runtime{
		now:        time.Now,
		containers: map[string]*Container{},
		images:     map[string]bool{},
		errs:       map[string][]error{},
		guarded:    map[string]runtime.Guarded{},
		volumes:    map[string]map[string]string{},
		hooks:      map[string]func(context.Context, string) error{},
		dumping:    map[string]chan struct{}{},
		holds:      map[string][]netip.Addr{},
		probe: runtime.Probe{
			CRIU: "4.1.1", Runc: "1.5.2", Containerd: "2.4.2", Kernel: "6.12.0-fake",
			DirtyTracking: true, CPUFeatures: []string{"fpu", "sse2", "xsave"}, XSaveSize: 832,
		},
	}
}

// SetClock replaces the clock that measurements are taken with.
func (r *Runtime) SetClock(now func() time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now = now
}

// SetNextError makes the next call of a method fail with err. Several are
// returned in the order they were set.
func (r *Runtime) SetNextError(method string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.errs[method] = append(r.errs[method], err)
}

// SetHook has fn called at the beginning of each call of a method, before
// anything happens, without a lock: it may block, look at the fake, or change
// it. An error of fn is the call's. nil removes the hook.
func (r *Runtime) SetHook(method string, fn func(ctx context.Context, id string) error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if fn == nil {
		delete(r.hooks, method)
		return
	}
	r.hooks[method] = fn
}

// SetProbe sets what Probe returns.
func (r *Runtime) SetProbe(p runtime.Probe) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.probe = p
}

// AddImage makes HasImage find a reference.
func (r *Runtime) AddImage(ref string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.images[ref] = true
}

// Calls returns the calls so far, in the order they began.
func (r *Runtime) Calls() []Call {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.calls)
}

// Methods returns the names of the methods called so far.
func (r *Runtime) Methods() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	names := make([]string, len(r.calls))
	for i, c := range r.calls {
		names[i] = c.Method
	}
	return names
}

// Discarded returns the ids that Discard was called for and succeeded.
func (r *Runtime) Discarded() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.discarded)
}

// begin records a call, runs its hook and returns the error that was set for
// it. On nil the lock is held and the caller has to give it back.
func (r *Runtime) begin(ctx context.Context, call Call) error {
	r.mu.Lock()
	r.calls = append(r.calls, call)
	hook := r.hooks[call.Method]
	r.mu.Unlock()
	if hook != nil {
		if err := hook(ctx, call.Container); err != nil {
			return err
		}
	}
	r.mu.Lock()
	if next := r.errs[call.Method]; len(next) > 0 {
		r.errs[call.Method] = next[1:]
		r.mu.Unlock()
		return next[0]
	}
	return nil
}

// get finds a container that runs. The lock is held.
func (r *Runtime) get(id string) (*Container, error) {
	c, ok := r.containers[id]
	if !ok || c.killed {
		return nil, fmt.Errorf("%w: %s", runtime.ErrNotFound, id)
	}
	return c, nil
}

// Probe returns what SetProbe set.
func (r *Runtime) Probe(ctx context.Context) (runtime.Probe, error) {
	if err := ctx.Err(); err != nil {
		return runtime.Probe{}, err
	}
	if err := r.begin(ctx, Call{Method: "Probe"}); err != nil {
		return runtime.Probe{}, err
	}
	defer r.mu.Unlock()
	return r.probe, nil
}
