// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/node-agent/runtime"
)

// A pod that dirties memory faster than it can be copied is slowed down (onStall:
// Throttle) by limits of its containers' CPU time. What they had before is
// recorded first, and given back when the pod is frozen, since CRIU works in its
// processes, or whenever else the pre-copy ends.

// throttled is what is remembered of the containers of a pod that is slowed down.
type throttled struct {
	Containers []throttledContainer `json:"containers"`
}

type throttledContainer struct {
	Container runtime.Container `json:"container"`
	// Limit that the container had, Set those that it was given instead. A limit
	// that is none of these comes from somebody else, and stays.
	Limit runtime.CPULimit   `json:"limit"`
	Set   []runtime.CPULimit `json:"set"`
	// CPUs that it used: CPU time per time.
	CPUs float64 `json:"cpus"`
}

// leastCPUs is counted for a container that has used less: enough to go on at all.
const leastCPUs = 0.05

func (a *Agent) throttles() records[throttled] {
	return records[throttled]{filepath.Join(a.RunDir, "throttled")}
}

// cpuUse is how much CPU time a container had used at a time.
type cpuUse struct {
	used time.Duration
	at   time.Time
}

// watchCPU notes what the containers have used, for throttle to know what there is
// to take. It is called at the beginning of a round.
func (s *sourceSession) watchCPU(ctx context.Context, m *v1alpha1.Migration) error {
	if m.Spec.PreCopy.OnStall != v1alpha1.OnStallThrottle {
		return nil
	}
	s.cpu = map[string]cpuUse{}
	for _, c := range s.containers {
		cpu, err := s.Node.Throttler.CPU(ctx, c)
		if err != nil {
			return fmt.Errorf("CPU time of %s: %w", c.Name, err)
		}
		s.cpu[c.ID] = cpuUse{cpu.Used, s.Now()}
	}
	return nil
}

// throttle leaves the pod so much of the CPU time that it used unthrottled.
func (s *sourceSession) throttle(ctx context.Context, percent int32) error {
	rec, err := s.throttles().get(s.uid)
	if err != nil {
		return err
	}
	if rec == nil {
		rec = &throttled{}
		for _, c := range s.containers {
			cpu, err := s.Node.Throttler.CPU(ctx, c)
			if err != nil {
				return fmt.Errorf("CPU time of %s: %w", c.Name, err)
			}
			t := throttledContainer{Container: c, Limit: cpu.Limit, CPUs: leastCPUs}
			if was, ok := s.cpu[c.ID]; ok && s.Now().After(was.at) {
				t.CPUs = max(t.CPUs, float64(cpu.Used-was.used)/float64(s.Now().Sub(was.at)))
			}
			rec.Containers = append(rec.Containers, t)
		}
	}
	for i := range rec.Containers {
		t := &rec.Containers[i]
		t.Set = append(t.Set, t.share(percent))
	}
	if err := s.throttles().put(s.uid, *rec); err != nil {
		return fmt.Errorf("record the CPU limits: %w", err)
	}
	for _, t := range rec.Containers {
		if err := s.Node.Throttler.Limit(ctx, t.Container, t.share(percent)); err != nil {
			return fmt.Errorf("slow down %s: %w", t.Container.Name, err)
		}
	}
	return nil
}

// leastQuota is the smallest that the kernel takes.
const leastQuota = time.Millisecond

// share of what the container used, and never more than it may.
func (t throttledContainer) share(percent int32) runtime.CPULimit {
	quota := time.Duration(t.CPUs * float64(percent) / 100 * float64(t.Limit.Period)).Truncate(time.Microsecond)
	if t.Limit.Quota > 0 {
		quota = min(quota, t.Limit.Quota)
	}
	return runtime.CPULimit{Quota: max(quota, leastQuota), Period: t.Limit.Period}
}

// giveCPUBack restores the recorded limits. The record stays.
func (a *Agent) giveCPUBack(ctx context.Context, rec *throttled) error {
	if rec == nil {
		return nil
	}
	var errs []error
	for _, t := range rec.Containers {
		cpu, err := a.Node.Throttler.CPU(ctx, t.Container)
		if err == nil && slices.Contains(t.Set, cpu.Limit) {
			err = a.Node.Throttler.Limit(ctx, t.Container, t.Limit)
		}
		if err != nil && !errors.Is(err, runtime.ErrNotFound) {
			errs = append(errs, fmt.Errorf("give %s its CPU time back: %w", t.Container.Name, err))
		}
	}
	return errors.Join(errs...)
}

// unthrottle restores the limits and forgets them. A pod that is not slowed down
// is left as it is.
func (a *Agent) unthrottle(ctx context.Context, uid types.UID) error {
	rec, err := a.throttles().get(uid)
	if err != nil || rec == nil {
		return err
	}
	if err := a.giveCPUBack(ctx, rec); err != nil {
		return err
	}
	return a.throttles().remove(uid)
}
