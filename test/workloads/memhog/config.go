// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"
)

const mebibyte = 1 << 20

// config is what the environment says.
type config struct {
	// Size of the memory in bytes.
	Size uint64
	// Rate is how much gets dirty, in bytes per second.
	Rate       float64
	Pattern    pattern
	HotPercent float64
	Seed       uint64
	Listen     string
	// Tick is how finely gaps are seen, and writes spread. Each tick wakes the process
	// twice, which thirty of them make a load of.
	Tick time.Duration
	// MPTCP makes the listener a multipath one, as Go's own default is. CRIU
	// cannot dump that, so here it is off unless a test wants it.
	MPTCP bool
	// HugePages asks for transparent huge pages.
	HugePages bool
	// IOUring opens an io_uring, which CRIU cannot dump either.
	IOUring bool
}

// readConfig reads the environment through get, which returns "" for what is
// not set.
func readConfig(get func(string) string) (config, error) {
	r := reader{get: get}
	c := config{
		Size:       uint64(r.number("SIZE_MIB", 64) * mebibyte),
		Rate:       r.number("DIRTY_MIB_PER_SECOND", 0) * mebibyte,
		HotPercent: r.number("HOT_PERCENT", 5),
		Seed:       uint64(r.number("SEED", 1)),
		Listen:     r.text("LISTEN", ":8080"),
		Tick:       time.Duration(r.number("TICK_MS", 5) * float64(time.Millisecond)),
		MPTCP:      r.flag("MPTCP"),
		HugePages:  r.flag("HUGE_PAGES"),
		IOUring:    r.flag("IO_URING"),
	}
	p, err := parsePattern(r.text("PATTERN", string(uniform)))
	r.failed(err)
	c.Pattern = p
	if c.Tick < time.Millisecond {
		r.failed(errors.New("TICK_MS: less than 1"))
	}
	return c, r.err
}

// reader remembers the first thing that was wrong.
type reader struct {
	get func(string) string
	err error
}

func (r *reader) failed(err error) {
	if r.err == nil {
		r.err = err
	}
}

func (r *reader) text(name, fallback string) string {
	if v := r.get(name); v != "" {
		return v
	}
	return fallback
}

func (r *reader) number(name string, fallback float64) float64 {
	v := r.get(name)
	if v == "" {
		return fallback
	}
	n, err := parseRate(v)
	if err != nil {
		r.failed(fmt.Errorf("%s: %w", name, err))
	}
	return n
}

func (r *reader) flag(name string) bool {
	v := r.get(name)
	if v == "" {
		return false
	}
	b, err := strconv.ParseBool(v)
	if err != nil {
		r.failed(fmt.Errorf("%s: %w", name, err))
	}
	return b
}

// parseRate reads a finite number that is not negative.
func parseRate(s string) (float64, error) {
	n, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return 0, err
	}
	if n < 0 || math.IsInf(n, 0) || math.IsNaN(n) {
		return 0, fmt.Errorf("%s is not a number from 0 on", s)
	}
	return n, nil
}
