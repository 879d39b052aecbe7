// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"time"
)

// rescheduling deletes the subject and creates a pod like it on the other node at the
// same time, as a ReplicaSet does when one of its pods is evicted. The time of its
// controller and of the scheduler is left out, in this method's favour.
type rescheduling struct{ *bench }

func (m rescheduling) measure(ctx context.Context, c cell, r *result) error {
	was, err := m.prepare(ctx, c)
	if err != nil {
		return err
	}
	_, target := m.ends(was.pod.Spec.NodeName)
	r.From, r.To = was.pod.Spec.NodeName, target.Name
	client := ask(ctx, m.address)
	defer client.close()
	if err := m.settle(ctx, client); err != nil {
		return err
	}
	client.reset()

	m.subject = nil
	begun := time.Now()
	if err := m.Delete(ctx, was.pod.DeepCopy()); err != nil {
		return fmt.Errorf("delete the pod: %w", err)
	}
	pod, err := m.Start(ctx, m.newPod(c.SizeMiB, target.Name))
	if err != nil {
		return err
	}
	if err := m.AwaitPodGone(ctx, was.pod.DeepCopy()); err != nil {
		return err
	}
	r.TotalSeconds = time.Since(begun).Seconds()
	if err := m.settle(ctx, client); err != nil {
		return err
	}
	gap, failures := client.seen()
	client.close()
	r.ClientGapSeconds, r.ClientFailures = gap.Seconds(), failures
	if err := m.follow(ctx, pod, c.SizeMiB); err != nil {
		return err
	}
	if m.subject.status.BootID == was.status.BootID {
		return fmt.Errorf("the process of pod %s is the old one", pod.Name)
	}
	r.Memory = memoryLost
	return nil
}
