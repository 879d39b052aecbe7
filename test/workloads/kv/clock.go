// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package kv

import (
	"fmt"
	"sync"
	"time"
)

// ClockWatch counts the ticks of a timer and looks at the monotonic clock at each.
type ClockWatch struct {
	mu       sync.Mutex
	ticks    uint64
	problems []string
}

const (
	tick = 50 * time.Millisecond
	// maxJump is more than any downtime, and much less than what the clocks of two
	// machines differ by.
	maxJump = 5 * time.Minute
	// maxProblems bounds the list; the first tell the most.
	maxProblems = 20
)

// NewClockWatch starts one.
func NewClockWatch() *ClockWatch {
	c := &ClockWatch{}
	go func() {
		last := time.Now()
		for now := range time.Tick(tick) {
			if step := now.Sub(last); step < 0 || step > maxJump {
				c.Problem("the monotonic clock has made a step of %s", step)
			}
			last = now
			c.mu.Lock()
			c.ticks++
			c.mu.Unlock()
		}
	}()
	return c
}

// Problem adds one to the list.
func (c *ClockWatch) Problem(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.problems) < maxProblems {
		c.problems = append(c.problems, fmt.Sprintf(format, args...))
	}
}

// State implements Watch.
func (c *ClockWatch) State() (uint64, []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ticks, append([]string{}, c.problems...)
}
