// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package fake

import "fmt"

// Guard implements runtime.Guard.
func (r *Runtime) Guard(podUID, why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.guarded[podUID] = why
}

// Release implements runtime.Guard.
func (r *Runtime) Release(podUID string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.guarded, podUID)
}

// Create is kubelet asking for a new container in a pod: an error when the pod
// is guarded.
func (r *Runtime) Create(podUID string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if why, ok := r.guarded[podUID]; ok {
		return fmt.Errorf("pod %s is guarded: %s", podUID, why)
	}
	return nil
}
