// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"godwit.dev/godwit/node-agent/runtime"
)

var _ runtime.Throttler = (*Control)(nil)

// unlimited is cpu.max's word for no quota. It and cpu.stat count microseconds
// (Documentation/admin-guide/cgroup-v2.rst).
const unlimited = "max"

// least is the smallest quota, and period, that the kernel takes (min_cfs_quota_period).
const least = time.Millisecond

// CPU reads cpu.max and cpu.stat.
func (c *Control) CPU(_ context.Context, k runtime.Container) (runtime.CPU, error) {
	var cpu runtime.CPU
	r, err := c.open(k.CgroupDir)
	if err != nil {
		return cpu, asNotFound(k, err)
	}
	defer r.Close()
	limit, err := r.ReadFile("cpu.max")
	if err != nil {
		return cpu, asNotFound(k, fmt.Errorf("read the CPU limit of %s: %w", k.ID, err))
	}
	if cpu.Limit, err = parseLimit(string(limit)); err != nil {
		return cpu, err
	}
	stat, err := r.ReadFile("cpu.stat")
	if err != nil {
		return cpu, asNotFound(k, fmt.Errorf("read the CPU time of %s: %w", k.ID, err))
	}
	cpu.Used, err = parseUsage(string(stat))
	return cpu, err
}

// Limit writes cpu.max.
func (c *Control) Limit(_ context.Context, k runtime.Container, l runtime.CPULimit) error {
	if l.Quota < 0 || l.Period < least {
		return fmt.Errorf("limit the CPU of %s: %s in every %s is no limit", k.ID, l.Quota, l.Period)
	}
	r, err := c.open(k.CgroupDir)
	if err != nil {
		return asNotFound(k, err)
	}
	defer r.Close()
	if err := write(r, "cpu.max", formatLimit(l)); err != nil {
		return asNotFound(k, fmt.Errorf("limit the CPU of %s: %w", k.ID, err))
	}
	return nil
}

func formatLimit(l runtime.CPULimit) string {
	quota := unlimited
	if l.Quota > 0 {
		quota = strconv.FormatInt(max(l.Quota, least).Microseconds(), 10)
	}
	return quota + " " + strconv.FormatInt(l.Period.Microseconds(), 10)
}

func parseLimit(s string) (runtime.CPULimit, error) {
	var l runtime.CPULimit
	quota, period, _ := strings.Cut(strings.TrimSpace(s), " ")
	p, err := strconv.ParseInt(period, 10, 64)
	q := int64(0)
	if err == nil && quota != unlimited {
		q, err = strconv.ParseInt(quota, 10, 64)
	}
	if err != nil || p <= 0 || q < 0 {
		return l, fmt.Errorf("cpu.max is %q", s)
	}
	return runtime.CPULimit{Quota: time.Duration(q) * time.Microsecond, Period: time.Duration(p) * time.Microsecond}, nil
}

func parseUsage(s string) (time.Duration, error) {
	for line := range strings.Lines(s) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "usage_usec "); ok {
			n, err := strconv.ParseInt(v, 10, 64)
			return time.Duration(n) * time.Microsecond, err
		}
	}
	return 0, fmt.Errorf("cpu.stat says nothing of usage_usec: %w", os.ErrInvalid)
}
