// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Package nodetest shows the tests of a test binary that runs elsewhere, on a
// node for instance, as subtests of a test here, one by one and while they run.
package nodetest

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// T is the part of *testing.T that Replay needs; S is T itself.
type T[S any] interface {
	Helper()
	// Run runs a subtest to its end and says whether it did not fail.
	Run(name string, test func(S)) bool
	Log(args ...any)
	Error(args ...any)
	Skip(args ...any)
}

// Replay reads the events that “go tool test2json” makes of a test binary's
// output, and runs a subtest of t for each of its tests, with their subtests
// below. What a test has printed becomes its log. The tests may not run in
// parallel with each other.
//
// Besides failed tests it is an error of t when no test ran, when all were
// skipped, when a test has no result, and when the binary failed without a test
// that did.
func Replay[S T[S]](t S, events io.Reader) {
	t.Helper()
	r := &replay[S]{decoder: json.NewDecoder(events)}
	r.follow(t, "")
	switch {
	case r.err != nil:
		// Whoever came upon it has said so.
	case r.ended == 0:
		t.Error("no test ran")
	case r.ended == r.skipped:
		t.Error("every test was skipped")
	case r.failed && r.blamed == 0:
		t.Error("the test binary failed, although none of its tests did")
	}
}

// event is a line of test2json. The binary as a whole is the test "".
type event struct {
	Action, Test, Output string
}

func (e event) final() bool { return e.Action == "pass" || e.Action == "fail" || e.Action == "skip" }

type replay[S T[S]] struct {
	decoder *json.Decoder
	// err is why the events cannot be followed any further.
	err error
	// ended counts the tests that have a result and no subtests; skipped and
	// blamed are those of them that were skipped and that failed.
	ended, skipped, blamed int
	// failed is the result of the binary.
	failed bool
}

// follow shows the test of that name until its result comes.
func (r *replay[S]) follow(t S, name string) {
	t.Helper()
	var log strings.Builder
	leaf := true
	for {
		var e event
		if err := r.decoder.Decode(&e); err != nil {
			r.err = fmt.Errorf("the output ends before the result of test %q: %w", name, err)
		}
		switch {
		case r.err != nil:
		case e.Test == name && e.Action == "output":
			if !framing(e.Output) {
				log.WriteString(e.Output)
			}
		case e.Test == name && e.final():
			r.finish(t, name, e.Action, leaf, log.String())
			return
		case e.Action == "run" && parent(e.Test) == name:
			leaf = false
			t.Run(e.Test[strings.LastIndexByte(e.Test, '/')+1:], func(t S) { r.follow(t, e.Test) })
		case e.Action == "output" || e.Action == "start":
			// Of a test that has its result already, or of the binary.
			log.WriteString(e.Output)
		default:
			r.err = fmt.Errorf("%q: %s of %q comes before its result", name, e.Action, e.Test)
		}
		if r.err != nil {
			t.Error(log.String() + r.err.Error())
			return
		}
	}
}

// finish gives t the result that the test had.
func (r *replay[S]) finish(t S, name, action string, leaf bool, log string) {
	t.Helper()
	if name == "" {
		r.failed = action == "fail"
		if r.failed && log != "" {
			t.Log(log)
		}
		return
	}
	if leaf {
		r.ended++
	}
	switch {
	case action == "fail":
		r.blamed++
		t.Error("failed on the node\n" + log)
	case action == "skip":
		if leaf {
			r.skipped++
		}
		t.Skip("skipped on the node\n" + log)
	case log != "":
		t.Log("on the node\n" + log)
	}
}

// parent is the name of the test that a test is a subtest of.
func parent(name string) string {
	i := strings.LastIndexByte(name, '/')
	return name[:max(i, 0)]
}

// framing says that a line of output is the testing package's own.
func framing(line string) bool {
	line = strings.TrimLeft(line, " ")
	for _, prefix := range []string{"=== ", "--- PASS", "--- FAIL", "--- SKIP", "PASS\n", "FAIL\n"} {
		if strings.HasPrefix(line, prefix) {
			return true
		}
	}
	return false
}
