// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"testing"
	"time"

	"godwit.dev/godwit/test/harness"
)

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

	frozenAt, dumpedAt := m.Status.Source.FrozenAt.Time, m.Status.Source.DumpedAt.Time
	var ran, held, frozen int
	var cpu time.Duration
	for _, look := range samples {
		since := look.Node.Sub(frozenAt)
		switch {
		case look.Node.Before(frozenAt):
			// CRIU stops the tasks in each round of pre-copy, too.
			if !look.Frozen && look.Processes > 0 {
				ran++
			}
		case look.Received.After(confirmed):
		case held+frozen == 0 && !look.Frozen:
			// Between the decision to freeze and the last task's stop.
			if since > 2*time.Second {
				t.Fatalf("not frozen %s after the freeze began: %+v", since, look)
			}
		case look.Node.Before(dumpedAt):
			if held++; !look.Frozen && !look.Traced || look.Processes == 0 {
				t.Fatalf("%s after the freeze began neither frozen nor held by CRIU: %+v", since, look)
			}
		default:
			if frozen == 0 {
				cpu = look.CPU
			}
			if frozen++; !look.Frozen || look.Processes == 0 || look.CPU != cpu {
				t.Fatalf("%s after the freeze began not frozen, or not any more, before the target was confirmed: %+v", since, look)
			}
		}
	}
	if ran == 0 || held < 3 || frozen < 3 {
		t.Fatalf("looks at the running, the dumped and the frozen source: %d, %d, %d; too few to say anything", ran, held, frozen)
	}
	t.Logf("seen running %d times, held for the dump %d times, then frozen %d times", ran, held, frozen)
}
