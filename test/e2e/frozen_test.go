// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"testing"
	"time"

	"godwit.dev/godwit/test/harness"
)

// injected is the CPU time that CRIU's own code may take in a frozen task.
const injected = 50 * time.Millisecond

// From the freeze until the target is confirmed, the source's tasks neither run
// nor are gone. The test looks at the node, not at what anyone reports.
func TestSourceIsFrozenUntilTheTargetIsConfirmed(t *testing.T) {
	s := begin(t)
	p := s.memhog("still")
	sampler, err := s.look(p.pod).Sample(s.ctx)
	s.must(err)
	s.must(sampler.Await(s.ctx, "the first sample", func(harness.Sample) bool { return true }))

	m := s.migration("move", p.pod.Name)
	s.await(m, "the target to be restored", harness.TargetState("Restored", "Cleaned"))
	confirmed := time.Now()
	moved := s.arrived(m)
	s.must(sampler.Await(s.ctx, "the source's tasks to be gone", func(s harness.Sample) bool { return s.Gone }))
	samples, err := sampler.Stop()
	s.must(err)
	p.continues(moved)

	// The last freeze counts: CRIU stops the tasks in each round, too.
	frozenAt, dumpedAt := m.Status.Source.FrozenAt.Time, m.Status.Source.DumpedAt.Time
	var still, ran int
	var first *harness.Sample
	for i := range samples {
		look := &samples[i]
		switch {
		case look.Node.Before(frozenAt):
			if !look.Frozen && look.Processes > 0 {
				ran++
			}
			continue
		case first == nil && !look.Frozen:
			// Between the decision to freeze and the last task's stop.
			if late := look.Node.Sub(frozenAt); late > 2*time.Second {
				t.Fatalf("not frozen %s after the freeze began", late)
			}
			continue
		case first == nil:
			first = look
		}
		if look.Received.After(confirmed) {
			break
		}
		// While it dumps, CRIU holds the tasks stopped by ptrace instead, thaws
		// the cgroup for the code it has injected, and freezes it again: nothing
		// of the program runs, but the injected code needs a little time.
		thawed := !look.Frozen && look.Node.After(dumpedAt)
		if thawed || look.Processes == 0 || look.CPU-first.CPU > injected {
			t.Fatalf("%s after the freeze, before the target was confirmed: %+v, at the freeze %+v", look.Node.Sub(first.Node), *look, *first)
		}
		still++
	}
	if ran == 0 || still < 5 {
		t.Fatalf("%d samples of the running and %d of the frozen source say nothing", ran, still)
	}
	t.Logf("seen running %d times, then frozen %d times", ran, still)
}
