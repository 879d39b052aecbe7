// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// What a search can show.
const (
	nothing   = "no violation"
	something = "a violation"
	twice     = "(a) runs twice"
	lost      = "(b) is lost"
	fresh     = "(c) starts from its image"
	past      = "(d) goes back to the past"
	stuck     = "does not end"
)

// outcome is what pan, the program that spin makes of a model, has found.
type outcome struct {
	// States that were stored, and the length of the longest run.
	States int `json:"states"`
	Depth  int `json:"depth"`
	// Violation that was found first.
	Violation string `json:"violation"`
}

var (
	statesLine = regexp.MustCompile(`(?m)^\s*(\d+(?:\.\d+)?(?:e\+\d+)?) states, stored`)
	depthLine  = regexp.MustCompile(`depth reached (\d+), errors: (\d+)`)
	firstError = regexp.MustCompile(`(?m)^pan:1: (.*)$`)
	property   = regexp.MustCompile(`([1-4])==([1-4])`)
)

// errIncomplete: pan did not search all of the model, so its silence says
// nothing.
var errIncomplete = errors.New("the search is not exhaustive")

// errUnreached: a step of the model is never taken, so nothing was learned of it.
var errUnreached = errors.New("some step of the model is never reached")

var unreached = regexp.MustCompile(`unreached in proctype \w+\n(?:\t.*\n)*?\t\((\d+) of \d+ states\)`)

// parse reads pan's output. It returns errIncomplete for a search without error
// that was cut short, by too little memory or depth.
func parse(out string) (outcome, error) {
	o := outcome{Violation: nothing}
	states, depth := statesLine.FindStringSubmatch(out), depthLine.FindStringSubmatch(out)
	if states == nil || depth == nil {
		return o, errors.New("cannot read pan's output")
	}
	n, err := strconv.ParseFloat(states[1], 64)
	if err != nil {
		return o, fmt.Errorf("number of states: %w", err)
	}
	o.States = int(n)
	if o.Depth, err = strconv.Atoi(depth[1]); err != nil {
		return o, fmt.Errorf("depth: %w", err)
	}
	found := firstError.FindStringSubmatch(out)
	if found == nil {
		if strings.Contains(out, "Search not completed") || strings.Contains(out, "max search depth too small") ||
			strings.Contains(out, "pan: reached -DMEMLIM") || depth[2] != "0" {
			return o, errIncomplete
		}
		if m := unreached.FindStringSubmatch(out); m != nil && m[1] != "0" {
			return o, errUnreached
		}
		return o, nil
	}
	switch m := property.FindStringSubmatch(found[1]); {
	case strings.HasPrefix(found[1], "invalid end state"), strings.HasPrefix(found[1], "non-progress cycle"):
		o.Violation = stuck
	case m == nil || m[1] != m[2]:
		return o, fmt.Errorf("unknown violation %q", found[1])
	default:
		o.Violation = []string{twice, lost, fresh, past}[m[1][0]-'1']
	}
	return o, nil
}
