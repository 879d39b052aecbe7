// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Command testcount adds up the results in files of “go test -json”, and in
// arrays of objects that say whether they have passed or were skipped, and prints them as one
// line, after what is known of each failure. Its exit status is 1 when a test failed,
// or when there were none at all.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

func main() {
	var c counts
	for _, name := range os.Args[1:] {
		if err := c.addFile(name); err != nil {
			fmt.Fprintln(os.Stderr, "testcount:", err)
			os.Exit(1)
		}
	}
	for _, f := range c.failures {
		fmt.Println(f)
	}
	fmt.Println(c)
	if c.failed > 0 || c.passed == 0 {
		os.Exit(1)
	}
}

// counts are numbers of tests, subtests included. A package that fails without
// one of its tests failing, because it does not compile for instance, is one
// failure.
type counts struct {
	passed, failed, skipped int
	// failures by name, each with what it said.
	failures []string
}

// lastLines of what a failed test printed are shown.
const lastLines = 30

// String is the form of the closing line.
func (c counts) String() string {
	s := fmt.Sprintf("%d passed, %d failed", c.passed, c.failed)
	if c.skipped > 0 {
		s += fmt.Sprintf(", %d skipped", c.skipped)
	}
	return s
}

func (c *counts) addFile(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	in := bufio.NewReader(f)
	add := c.add
	if first, err := in.Peek(1); err == nil && first[0] == '[' {
		add = c.addArray
	}
	if err := add(in); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// addArray counts an array of results.
func (c *counts) addArray(r io.Reader) error {
	var all []struct {
		Passed   bool
		Skipped  bool
		Run      string
		Problems []string
	}
	if err := json.NewDecoder(r).Decode(&all); err != nil {
		return err
	}
	for _, one := range all {
		switch {
		case one.Skipped:
			c.skipped++
		case one.Passed:
			c.passed++
		default:
			c.fail(one.Run, one.Problems)
		}
	}
	return nil
}

func (c *counts) fail(name string, said []string) {
	c.failed++
	c.failures = append(c.failures, strings.Join(append([]string{"FAILED: " + name}, said...), "\n    "))
}

// event is the part of a test2json event that counts.
type event struct {
	Action, Package, Test, Output string
}

// file is what is known of the tests of a file so far.
type file struct {
	*counts
	// blamed are the packages with a failed test.
	blamed map[string]bool
	// said is the end of what each test that goes on has printed.
	said map[string][]string
}

func (c *counts) add(r io.Reader) error {
	f := file{counts: c, blamed: map[string]bool{}, said: map[string][]string{}}
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 && line[0] == '{' {
			var e event
			// A line that is not an event is output of the build.
			if json.Unmarshal(line, &e) == nil {
				f.count(e)
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// count adds one event.
func (f *file) count(e event) {
	name := strings.TrimSpace(e.Package + " " + e.Test)
	switch {
	case e.Action == "output":
		said := append(f.said[name], strings.TrimRight(e.Output, "\n"))
		f.said[name] = said[max(0, len(said)-lastLines):]
		return
	case e.Action == "fail" && (e.Test != "" || !f.blamed[e.Package]):
		f.fail(name, f.said[name])
		f.blamed[e.Package] = true
	case e.Test == "":
	case e.Action == "pass":
		f.passed++
	case e.Action == "skip":
		f.skipped++
	default:
		return
	}
	delete(f.said, name)
}
