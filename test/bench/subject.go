// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"godwit.dev/godwit/test/harness"
)

// firstNode is where pods and processes start.
const firstNode = "n1"

// subject is the pod that is moved, and what is known of the process in it.
type subject struct {
	pod     *corev1.Pod
	sizeMiB int
	status  harness.MemhogStatus
	memory  harness.MemhogMemory
}

func (s *subject) server() harness.Memhog { return harness.MemhogAt(s.pod) }

// newPod describes a pod of that size on a node.
func (b *bench) newPod(sizeMiB int, node string) *corev1.Pod {
	b.number++
	pod := b.MemhogPod(namespace, fmt.Sprintf("%s-%d", app, b.number), fmt.Sprintf("SIZE_MIB=%d", sizeMiB))
	pod.Labels[harness.LabelApp] = app
	pod.Spec.NodeName = node
	return pod
}

// load is the order that makes the test server write as the cell says.
func load(c cell) string {
	order := fmt.Sprintf("/dirty?mibPerSecond=%g", c.mibPerSecond())
	if c.Pattern != "" {
		order += "&pattern=" + c.Pattern
	}
	return order
}

// prepare makes sure that there is a pod with a cell's memory and load, and nothing
// else.
func (b *bench) prepare(ctx context.Context, c cell) (*subject, error) {
	if s := b.subject; s != nil && s.sizeMiB != c.SizeMiB {
		b.subject = nil
		if err := b.Delete(ctx, s.pod); err != nil {
			return nil, fmt.Errorf("delete the pod of another size: %w", err)
		}
		if err := b.AwaitPodGone(ctx, s.pod); err != nil {
			return nil, err
		}
	}
	if b.subject == nil {
		pod, err := b.Start(ctx, b.newPod(c.SizeMiB, firstNode))
		if err != nil {
			return nil, err
		}
		if err := b.follow(ctx, pod, c.SizeMiB); err != nil {
			return nil, err
		}
	}
	s := b.subject
	if err := b.AwaitPodReady(ctx, s.pod); err != nil {
		return nil, err
	}
	if err := s.server().Order(ctx, load(c)); err != nil {
		return nil, fmt.Errorf("set the load: %w", err)
	}
	return s, nil
}

// quiet lets the pod, if there is one, do nothing while others are measured.
func (b *bench) quiet(ctx context.Context) error {
	if b.subject == nil {
		return nil
	}
	if err := b.subject.server().Order(ctx, load(cell{})); err != nil {
		return fmt.Errorf("set the load: %w", err)
	}
	return nil
}

// follow makes the pod the one that is moved from now on.
func (b *bench) follow(ctx context.Context, pod *corev1.Pod, sizeMiB int) error {
	s := &subject{pod: pod, sizeMiB: sizeMiB}
	var err error
	if s.status, err = s.server().Status(ctx); err != nil {
		return err
	}
	if s.memory, err = s.server().Verify(ctx); err != nil {
		return err
	}
	b.subject = s
	return nil
}

// continued checks that the process in the subject's pod is the one that was followed
// and has all of its memory.
func (b *bench) continued(ctx context.Context, was *subject, r *result) error {
	now := b.subject
	if err := sameProcess(was.status, now.status); err != nil {
		return err
	}
	if err := sameMemory(was.memory, now.memory); err != nil {
		return err
	}
	if n := harness.Restarts(now.pod); n != 0 {
		return fmt.Errorf("pod %s was restarted %d times", now.pod.Name, n)
	}
	r.Memory, r.Checksum = memoryKept, now.memory.Checksum
	return nil
}

func sameProcess(was, now harness.MemhogStatus) error {
	switch {
	case now.BootID != was.BootID || !now.StartTime.Equal(was.StartTime) || now.PID != was.PID:
		return fmt.Errorf("another process answers than before: %+v, was %+v", now, was)
	case now.Counter < was.Counter:
		return fmt.Errorf("the counter went back from %d to %d", was.Counter, now.Counter)
	case now.ClockSteps > was.ClockSteps:
		return errors.New("the process has seen its monotonic clock go backwards")
	}
	return nil
}

// sameMemory: every page was looked at already; without a write in between the whole
// has to be the same.
func sameMemory(was, now harness.MemhogMemory) error {
	switch {
	case now.Pages != was.Pages || now.Writes < was.Writes:
		return fmt.Errorf("the memory is not what it was: %+v, was %+v", now, was)
	case now.Writes == was.Writes && !strings.EqualFold(now.Checksum, was.Checksum):
		return fmt.Errorf("nothing was written, and the checksum is %s, was %s", now.Checksum, was.Checksum)
	}
	return nil
}
