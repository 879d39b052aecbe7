// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// params are what the environment asks for.
type params struct {
	// sizes of memory in MiB, rates in percent of it per second, patterns of
	// writing; see memhog.
	sizes    []int
	rates    []float64
	patterns []string
	// reps of everything.
	reps    int
	methods []string
	// full: every method in every cell of the grid.
	full bool
	// filter chooses steps by their name, if it is set.
	filter *regexp.Regexp
}

// patterns that dirty memory.
var patterns = []string{"uniform", "hot", "sequential"}

// readParams reads the environment through get, which returns "" for what is not
// set.
func readParams(get func(string) string) (params, error) {
	preset := map[string]string{
		"SIZES": "64,256,1024", "RATES": "0,1,10", "PATTERNS": "uniform,hot", "REPS": "5",
		"METHODS": strings.Join(methodNames(), ","), "GRID": "cross",
	}
	if get("QUICK") == "1" {
		preset["SIZES"], preset["RATES"], preset["PATTERNS"], preset["REPS"] = "64,256", "1", "uniform", "2"
		preset["METHODS"] = strings.Join([]string{precopy, stopAndCopy, floor}, ",")
	}
	value := func(name string) string {
		if v := get(name); v != "" {
			return v
		}
		return preset[name]
	}
	var p params
	var err error
	failed := func(name string, e error) {
		if e != nil && err == nil {
			err = fmt.Errorf("%s=%s: %w", name, value(name), e)
		}
	}
	var e error
	p.sizes, e = list(value("SIZES"), func(s string) (int, error) { return atLeast(1)(strconv.Atoi(s)) })
	failed("SIZES", e)
	p.rates, e = list(value("RATES"), func(s string) (float64, error) {
		n, err := strconv.ParseFloat(s, 64)
		if err == nil && (math.IsNaN(n) || n < 0 || n > 1000) {
			err = fmt.Errorf("%v is not a number of percent", n)
		}
		return n, err
	})
	failed("RATES", e)
	p.patterns, e = list(value("PATTERNS"), oneOf(patterns))
	failed("PATTERNS", e)
	p.methods, e = list(value("METHODS"), oneOf(methodNames()))
	failed("METHODS", e)
	p.reps, e = atLeast(1)(strconv.Atoi(value("REPS")))
	failed("REPS", e)
	grid, e := oneOf([]string{"cross", "full"})(value("GRID"))
	failed("GRID", e)
	p.full = grid == "full"
	if v := get("RUN"); v != "" {
		p.filter, e = regexp.Compile(v)
		failed("RUN", e)
	}
	return p, err
}

// list reads values between commas, none of them twice.
func list[T comparable](text string, parse func(string) (T, error)) ([]T, error) {
	var all []T
	for _, s := range strings.Split(text, ",") {
		v, err := parse(strings.TrimSpace(s))
		if err != nil {
			return nil, err
		}
		if slices.Contains(all, v) {
			return nil, fmt.Errorf("%v is there twice", v)
		}
		all = append(all, v)
	}
	return all, nil
}

func atLeast(least int) func(int, error) (int, error) {
	return func(n int, err error) (int, error) {
		if err == nil && n < least {
			err = fmt.Errorf("%d is less than %d", n, least)
		}
		return n, err
	}
}

func oneOf(known []string) func(string) (string, error) {
	return func(s string) (string, error) {
		if !slices.Contains(known, s) {
			return "", fmt.Errorf("%q is none of %s", s, strings.Join(known, ", "))
		}
		return s, nil
	}
}
