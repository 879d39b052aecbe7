// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"godwit.dev/godwit/test/harness"
)

// process is a test server that is followed from pod to pod.
type process struct {
	*scenario
	pod    *corev1.Pod
	status harness.MemhogStatus
}

// memhog starts a test server that dirties memory.
func (s *scenario) memhog(name string, env ...string) *process {
	s.Helper()
	env = append([]string{"SIZE_MIB=32", "DIRTY_MIB_PER_SECOND=1", "PATTERN=hot"}, env...)
	return s.follow(s.start(s.MemhogPod(s.namespace, name, env...)))
}

// follow looks at the process in the pod, to know it again. A pod may be ready
// before the process in it answers, where its readiness is not asked of it.
func (s *scenario) follow(pod *corev1.Pod) *process {
	s.Helper()
	p := &process{scenario: s, pod: pod}
	s.eventually("the process to answer", func() (bool, string) {
		var err error
		p.status, err = harness.MemhogAt(pod).Status(s.ctx)
		return err == nil, fmt.Sprint(err)
	})
	return p
}

// continues checks that the process in the pod is the one followed, that it has
// gone on working, and that every page of its memory is right. It is followed
// in that pod from now on.
func (p *process) continues(pod *corev1.Pod) {
	p.Helper()
	server := harness.MemhogAt(pod)
	now, err := server.Status(p.ctx)
	p.must(err)
	was := p.status
	if now.BootID != was.BootID || !now.StartTime.Equal(was.StartTime) || now.PID != was.PID {
		p.Fatalf("another process answers in %s: %+v, was %+v", pod.Name, now, was)
	}
	if now.Counter < was.Counter {
		p.Errorf("the counter went back from %d to %d", was.Counter, now.Counter)
	}
	if now.ClockSteps > was.ClockSteps {
		p.Errorf("the process has seen its monotonic clock go backwards")
	}
	if _, err := server.Verify(p.ctx); err != nil {
		p.Errorf("memory: %v", err)
	}
	p.works(server, now.Counter)
	p.pod, p.status = pod, now
}

// works checks that the counter moves on, which it does only while timers work
// and memory can be written.
func (p *process) works(server harness.Memhog, from uint64) {
	p.Helper()
	// Every request takes a while, and a page is due every few milliseconds.
	for range 100 {
		now, err := server.Status(p.ctx)
		p.must(err)
		if now.Counter > from {
			return
		}
	}
	p.Errorf("the counter stands still at %d", from)
}

// unharmed is continues for a migration that did not happen.
func (p *process) unharmed() {
	p.Helper()
	p.continues(p.scenario.pod(p.pod.Name))
}

// log makes the process print a line.
func (p *process) log(text string) {
	p.Helper()
	p.must(harness.MemhogAt(p.pod).Order(p.ctx, "/log?text="+text))
}
