// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"path"
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
// processes, or whenever else the pre-copy ends. While the pod is frozen its own limits,
// too, are lifted, those of its containers and of the pod as a whole: what CRIU's code
// in the processes computes counts as theirs, and a pod with a tenth of a processor
// would be frozen ten times as long.

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

// lifts are the limits that are lifted while a pod is frozen.
func (a *Agent) lifts() records[throttled] {
	return records[throttled]{filepath.Join(a.RunDir, "lifted")}
}

// recordLimits records what CPU time the pod may use now, for it to be lifted when the
// pod is frozen. Without limits there is no record.
func (s *sourceSession) recordLimits(ctx context.Context) (*throttled, error) {
	rec := &throttled{}
	seen := map[string]bool{}
	for _, c := range s.containers {
		pod := c
		pod.Name, pod.CgroupDir = "the pod", path.Dir(c.CgroupDir)
		for _, c := range []runtime.Container{c, pod} {
			if seen[c.CgroupDir] {
				continue
			}
			seen[c.CgroupDir] = true
			cpu, err := s.Node.Throttler.CPU(ctx, c)
			if err != nil {
				return nil, fmt.Errorf("CPU limit of %s: %w", c.Name, err)
			}
			if cpu.Limit.Quota > 0 {
				rec.Containers = append(rec.Containers, throttledContainer{Container: c, Limit: cpu.Limit, Set: []runtime.CPULimit{{Period: cpu.Limit.Period}}})
			}
		}
	}
	if len(rec.Containers) == 0 {
		return rec, nil
	}
	if err := s.lifts().put(s.uid, *rec); err != nil {
		return nil, fmt.Errorf("record the CPU limits: %w", err)
	}
	return rec, nil
}

// lift lifts the recorded limits.
func (a *Agent) lift(ctx context.Context, rec *throttled) error {
	var errs []error
	for _, t := range rec.Containers {
		if err := a.Node.Throttler.Limit(ctx, t.Container, t.Set[0]); err != nil {
			errs = append(errs, fmt.Errorf("lift the CPU limit of %s: %w", t.Container.Name, err))
		}
	}
	return errors.Join(errs...)
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

// unthrottle restores the limits and forgets them, what was lifted first: that may have
// been what the pod was slowed down to. A pod that has its own limits is left as it is.
func (a *Agent) unthrottle(ctx context.Context, uid types.UID) error {
	for _, records := range []records[throttled]{a.lifts(), a.throttles()} {
		rec, err := records.get(uid)
		if err != nil {
			return err
		}
		if rec == nil {
			continue
		}
		if err := a.giveCPUBack(ctx, rec); err != nil {
			return err
		}
		if err := records.remove(uid); err != nil {
			return err
		}
	}
	return nil
}
