// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package fake

import (
	"fmt"

	"godwit.dev/godwit/node-agent/runtime"
)

// Guard implements runtime.Guard.
func (r *Runtime) Guard(g runtime.Guarded) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.guarded[g.PodUID] = g
	return nil
}

// Release implements runtime.Guard.
func (r *Runtime) Release(podUID string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.guarded, podUID)
	return nil
}

// Guarded implements runtime.Guard.
func (r *Runtime) Guarded() ([]runtime.Guarded, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []runtime.Guarded
	for _, g := range r.guarded {
		all = append(all, g)
	}
	return all, nil
}

// Create is kubelet asking for a new container in a pod: an error when the pod
// is guarded.
func (r *Runtime) Create(podUID string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if g, ok := r.guarded[podUID]; ok {
		return fmt.Errorf("pod %s is guarded: %s", podUID, g.Why)
	}
	return nil
}
