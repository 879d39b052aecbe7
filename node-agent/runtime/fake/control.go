// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package fake

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"godwit.dev/godwit/node-agent/runtime"
)

// change runs fn on a container under the lock.
func (r *Runtime) change(ctx context.Context, call Call, fn func(*Container) error) error {
	if err := r.begin(ctx, call); err != nil {
		return err
	}
	defer r.mu.Unlock()
	c, err := r.get(call.Container)
	if err != nil {
		return err
	}
	return fn(c)
}

// Freeze freezes a container.
func (r *Runtime) Freeze(ctx context.Context, k runtime.Container) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return r.change(ctx, Call{Method: "Freeze", Container: k.ID}, func(c *Container) error {
		c.frozen = true
		return nil
	})
}

// FreezePod keeps a container frozen.
func (r *Runtime) FreezePod(ctx context.Context, k runtime.Container) error {
	return r.change(ctx, Call{Method: "FreezePod", Container: k.ID}, func(c *Container) error {
		c.podFrozen = true
		return nil
	})
}

// Thaw thaws a container.
func (r *Runtime) Thaw(ctx context.Context, k runtime.Container) error {
	return r.change(ctx, Call{Method: "Thaw", Container: k.ID}, func(c *Container) error {
		c.frozen, c.podFrozen = false, false
		return nil
	})
}

// Frozen tells the state.
func (r *Runtime) Frozen(ctx context.Context, k runtime.Container) (frozen bool, err error) {
	err = r.change(ctx, Call{Method: "Frozen", Container: k.ID}, func(c *Container) error {
		frozen = c.stands()
		return nil
	})
	return frozen, err
}

// CPU tells the limit. Each tick counts as a millisecond.
func (r *Runtime) CPU(ctx context.Context, k runtime.Container) (cpu runtime.CPU, err error) {
	err = r.change(ctx, Call{Method: "CPU", Container: k.ID}, func(c *Container) error {
		cpu = runtime.CPU{Limit: c.limit, Used: time.Duration(c.count) * time.Millisecond}
		return nil
	})
	return cpu, err
}

// Limit changes the limit.
func (r *Runtime) Limit(ctx context.Context, k runtime.Container, l runtime.CPULimit) error {
	return r.change(ctx, Call{Method: "Limit", Container: k.ID}, func(c *Container) error {
		if l.Period <= 0 || l.Quota < 0 {
			return fmt.Errorf("%+v is no limit", l)
		}
		c.limit = l
		return nil
	})
}

// Isolate cuts a container off.
func (r *Runtime) Isolate(ctx context.Context, k runtime.Container) error {
	return r.change(ctx, Call{Method: "Isolate", Container: k.ID}, func(c *Container) error {
		c.isolated = true
		return nil
	})
}

// Connect takes the isolation back.
func (r *Runtime) Connect(ctx context.Context, k runtime.Container) error {
	return r.change(ctx, Call{Method: "Connect", Container: k.ID}, func(c *Container) error {
		c.isolated = false
		return nil
	})
}

// Separate says that nothing was connected; all containers have to be frozen.
func (r *Runtime) Separate(ctx context.Context, cs []runtime.Container) (int, error) {
	for _, k := range cs {
		err := r.change(ctx, Call{Method: "Separate", Container: k.ID}, func(c *Container) error {
			if !c.stands() {
				return fmt.Errorf("%s is not frozen", k.ID)
			}
			return nil
		})
		if err != nil {
			return 0, err
		}
	}
	return 0, nil
}

// Reject tells peers that the pod is gone; the container stays cut off.
func (r *Runtime) Reject(ctx context.Context, k runtime.Container) error {
	return r.change(ctx, Call{Method: "Reject", Container: k.ID}, func(c *Container) error {
		c.isolated = true
		return nil
	})
}

// Disown ends what no process has, of which the fake has nothing.
func (r *Runtime) Disown(ctx context.Context, k runtime.Container) error {
	return r.change(ctx, Call{Method: "Disown", Container: k.ID}, func(c *Container) error {
		if !c.isolated {
			return fmt.Errorf("%s is not cut off", k.ID)
		}
		return nil
	})
}

// Hold holds addresses.
func (r *Runtime) Hold(ctx context.Context, migrationUID string, addresses []netip.Addr) error {
	if err := r.begin(ctx, Call{Method: "Hold"}); err != nil {
		return err
	}
	defer r.mu.Unlock()
	r.holds[migrationUID] = slices.Clone(addresses)
	return nil
}

// Lift lets them go.
func (r *Runtime) Lift(ctx context.Context, migrationUID string) error {
	if err := r.begin(ctx, Call{Method: "Lift"}); err != nil {
		return err
	}
	defer r.mu.Unlock()
	delete(r.holds, migrationUID)
	return nil
}

// Held lists for whom addresses are held.
func (r *Runtime) Held(ctx context.Context) ([]string, error) {
	if err := r.begin(ctx, Call{Method: "Held"}); err != nil {
		return nil, err
	}
	defer r.mu.Unlock()
	return slices.Sorted(maps.Keys(r.holds)), nil
}

// DirtyBytes counts what was written since the last dump.
func (r *Runtime) DirtyBytes(ctx context.Context, k runtime.Container) (n int64, err error) {
	err = r.change(ctx, Call{Method: "DirtyBytes", Container: k.ID}, func(c *Container) error {
		if !r.probe.DirtyTracking {
			return runtime.ErrUnsupported
		}
		n = c.dirty * PageSize
		return nil
	})
	return n, err
}

// Signal records a signal. SIGKILL and, unless frozen, SIGTERM end the process.
func (r *Runtime) Signal(ctx context.Context, k runtime.Container, sig int) error {
	return r.change(ctx, Call{Method: "Signal", Container: k.ID, Signal: sig}, func(c *Container) error {
		c.signals = append(c.signals, sig)
		const sigkill, sigterm = 9, 15
		if sig == sigkill || sig == sigterm && !c.stands() {
			c.killed = true
		}
		return nil
	})
}

// Kill ends a container.
func (r *Runtime) Kill(ctx context.Context, k runtime.Container) error {
	err := r.change(ctx, Call{Method: "Kill", Container: k.ID}, func(c *Container) error {
		c.killed = true
		return nil
	})
	if errors.Is(err, runtime.ErrNotFound) {
		return nil
	}
	return err
}

// Discard ends and forgets a container.
func (r *Runtime) Discard(ctx context.Context, id, bundle string) error {
	if err := r.begin(ctx, Call{Method: "Discard", Container: id}); err != nil {
		return err
	}
	defer r.mu.Unlock()
	if id == "" || bundle == "" {
		return fmt.Errorf("discard: no id or bundle (%q, %q)", id, bundle)
	}
	if c, ok := r.containers[id]; ok {
		c.killed = true
		delete(r.containers, id)
	}
	r.discarded = append(r.discarded, id)
	return nil
}
