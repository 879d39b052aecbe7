// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"
	"strings"
	"testing"
)

func readTestParams(t *testing.T, pairs ...string) params {
	t.Helper()
	p, err := readParams(environment(pairs...))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func environment(pairs ...string) func(string) string {
	return func(name string) string {
		for _, p := range pairs {
			if k, v, _ := strings.Cut(p, "="); k == name {
				return v
			}
		}
		return ""
	}
}

func TestPresets(t *testing.T) {
	p := readTestParams(t)
	if !slices.Equal(p.sizes, []int{64, 256, 1024}) || !slices.Equal(p.rates, []float64{0, 1, 10}) ||
		!slices.Equal(p.patterns, []string{"uniform", "hot"}) || p.reps != 5 || len(p.methods) != len(methods) || p.full {
		t.Errorf("%+v", p)
	}
	p = readTestParams(t, "QUICK=1", "REPS=3")
	if !slices.Equal(p.sizes, []int{64, 256}) || p.reps != 3 || !slices.Equal(p.methods, []string{precopy, stopAndCopy, floor}) {
		t.Errorf("quick: %+v", p)
	}
}

func TestWhatIsNoParameterIsRefused(t *testing.T) {
	for _, bad := range []string{
		"SIZES=64,big", "SIZES=0", "SIZES=64,64", "RATES=-1", "RATES=NaN", "PATTERNS=none", "METHODS=docker", "REPS=0", "GRID=half", "RUN=(",
	} {
		if _, err := readParams(environment(bad)); err == nil || !strings.Contains(err.Error(), strings.SplitN(bad, "=", 2)[0]) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// cellsWith are the names of the cells in which a plan has a method.
func cellsWith(steps []step, method string) string {
	var names []string
	for _, s := range steps {
		if s.method == method && s.rep == 1 {
			names = append(names, s.cell.name())
		}
	}
	return strings.Join(names, " ")
}

func TestTheCross(t *testing.T) {
	steps := plan(readTestParams(t))
	for method, want := range map[string]string{
		precopy:      "64MiB-1%-uniform 256MiB-0% 256MiB-1%-uniform 256MiB-1%-hot 256MiB-10%-uniform 1024MiB-1%-uniform",
		floor:        "64MiB-1%-uniform 256MiB-0% 256MiB-1%-uniform 256MiB-1%-hot 256MiB-10%-uniform 1024MiB-1%-uniform",
		stopAndCopy:  "64MiB-1%-uniform 256MiB-1%-uniform 1024MiB-1%-uniform",
		reschedule:   "64MiB-1%-uniform 256MiB-1%-uniform",
		runcScript:   "256MiB-1%-uniform",
		podmanMethod: "256MiB-1%-uniform",
		costMethod:   "256MiB-1%-uniform",

		containerFloor: "64MiB-1%-uniform 256MiB-1%-uniform",
	} {
		if got := cellsWith(steps, method); got != want {
			t.Errorf("%s:\n got %s\nwant %s", method, got, want)
		}
	}
	if m := minutes(steps); m < 60 || m > 110 {
		t.Errorf("the presets take %.0f minutes", m)
	}
}

func TestTheFullGrid(t *testing.T) {
	steps := plan(readTestParams(t, "GRID=full"))
	// Three sizes, each without writes and at two rates with two patterns.
	if want := 2 + 15*len(methods)*5; len(steps) != want {
		t.Errorf("%d steps, want %d", len(steps), want)
	}
}

func TestRunChoosesSteps(t *testing.T) {
	steps := plan(readTestParams(t, "GRID=full", "REPS=1", "RUN=^64MiB-1%.*/(precopy|floor)$"))
	var names []string
	for _, s := range steps {
		names = append(names, s.name())
	}
	want := []string{"64MiB-1%-uniform/precopy", "64MiB-1%-uniform/precopy",
		"64MiB-1%-uniform/precopy", "64MiB-1%-uniform/floor", "64MiB-1%-hot/precopy", "64MiB-1%-hot/floor"}
	if !slices.Equal(names, want) {
		t.Errorf("%q", names)
	}
	if steps[0].rep != 0 || steps[1].rep != 0 || steps[2].rep != 1 {
		t.Errorf("%+v", steps)
	}
	if steps := plan(readTestParams(t, "METHODS=floor", "REPS=1", "SIZES=64")); steps[0].rep != 1 {
		t.Error("something warms up for nothing")
	}
}

func TestMethodsAreInterleaved(t *testing.T) {
	names := []string{precopy, stopAndCopy, floor, reschedule}
	if got := order([]string{containerFloor, stopAndCopy, floor, precopy}, 2); !slices.Equal(got, []string{precopy, containerFloor, floor, stopAndCopy}) {
		t.Errorf("with two floors: %q", got)
	}
	for rep, want := range map[int][]string{
		1: {precopy, floor, stopAndCopy, reschedule},
		2: {stopAndCopy, reschedule, precopy, floor},
		3: {reschedule, precopy, floor, stopAndCopy},
		4: {precopy, floor, stopAndCopy, reschedule},
	} {
		if got := order(names, rep); !slices.Equal(got, want) {
			t.Errorf("repetition %d: %q", rep, got)
		}
	}
	if got := order([]string{floor}, 2); !slices.Equal(got, []string{floor}) {
		t.Errorf("alone: %q", got)
	}
	if got := order([]string{stopAndCopy, floor}, 1); !slices.Equal(got, []string{floor, stopAndCopy}) {
		t.Errorf("without precopy: %q", got)
	}
	// All of a repetition comes before any of the next, and what is measured apart last.
	rep, alone := 0, false
	for _, s := range plan(readTestParams(t)) {
		if apart(s.method) && !alone {
			rep, alone = 0, true
		}
		if s.rep < rep || apart(s.method) != alone {
			t.Fatalf("repetition %d of %s after %d", s.rep, s.method, rep)
		}
		rep = s.rep
	}
}
