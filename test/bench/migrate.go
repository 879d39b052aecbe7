// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/test/harness"
)

// migrating moves the subject with a Migration.
type migrating struct {
	*bench
	// change of the spec, which else has its defaults.
	change func(*v1alpha1.MigrationSpec)
}

// withoutRounds makes a Migration a stop-and-copy. All memory is written while the pod
// is frozen: with the default an emulated node would give that up.
func withoutRounds(s *v1alpha1.MigrationSpec) {
	s.PreCopy.MaxRounds = ptr.To(int32(0))
	s.SwitchoverTimeout = &metav1.Duration{Duration: 5 * time.Minute}
}

func (m migrating) measure(ctx context.Context, c cell, r *result) error {
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
	if err := was.server().Order(ctx, "/gap/reset"); err != nil {
		return err
	}
	client.reset()

	mig := m.migration(was.pod.Name, target.Name)
	if m.change != nil {
		m.change(&mig.Spec)
	}
	begun := time.Now()
	if err := m.Create(ctx, mig); err != nil {
		return fmt.Errorf("create the migration: %w", err)
	}
	err = m.AwaitFinished(ctx, mig)
	r.TotalSeconds = time.Since(begun).Seconds()
	readStatus(r, mig)
	if err == nil && mig.Status.Phase != v1alpha1.PhaseSucceeded {
		err = fmt.Errorf("the migration did not succeed\n%s", harness.Summary(mig))
	}
	if err != nil {
		return err
	}
	if m.change == nil {
		m.rounds[c] = len(r.Rounds)
	}
	return errors.Join(m.arrive(ctx, mig, was, client, r), m.forget(ctx, mig))
}

// migration describes one with nothing but defaults, but for the names.
func (b *bench) migration(pod, node string) *v1alpha1.Migration {
	b.number++
	return harness.Migration(namespace, fmt.Sprintf("move-%d", b.number), pod, func(s *v1alpha1.MigrationSpec) {
		s.PreCopy = v1alpha1.PreCopySpec{}
		s.TargetNode, s.TargetPodName = node, fmt.Sprintf("%s-%d", app, b.number)
	})
}

// arrive takes over the pod that a migration has made, with what the process and the
// client have seen.
func (m migrating) arrive(ctx context.Context, mig *v1alpha1.Migration, was *subject, client *asker, r *result) error {
	m.subject = nil // until it is known to be well
	if err := m.AwaitPodGone(ctx, was.pod.DeepCopy()); err != nil {
		return err
	}
	pod, err := m.GetPod(ctx, namespace, mig.Status.Target.PodName)
	if err != nil {
		return err
	}
	if err := m.AwaitPodReady(ctx, pod); err != nil {
		return err
	}
	if err := m.settle(ctx, client); err != nil {
		return err
	}
	return m.takeOver(ctx, pod, was, client, r)
}

// takeOver reads what was seen before anything disturbs it, and checks the process.
func (m migrating) takeOver(ctx context.Context, pod *corev1.Pod, was *subject, client *asker, r *result) error {
	gap, failures := client.seen()
	client.close()
	r.ClientGapSeconds, r.ClientFailures = gap.Seconds(), failures
	status, err := harness.MemhogAt(pod).Status(ctx)
	if err != nil {
		return err
	}
	r.ProcessGapSeconds, r.MonotonicGapSeconds = status.LongestWallGap.Seconds(), status.LongestGap.Seconds()
	if err := m.follow(ctx, pod, was.sizeMiB); err != nil {
		return err
	}
	return m.continued(ctx, was, r)
}

// settle returns when the client is answered each time.
func (b *bench) settle(ctx context.Context, client *asker) error {
	ctx, cancel := context.WithTimeoutCause(ctx, settleLimit, fmt.Errorf("not within %s", settleLimit))
	defer cancel()
	return client.awaitSettled(ctx)
}

// forget removes a Migration that has finished.
func (b *bench) forget(ctx context.Context, m *v1alpha1.Migration) error {
	m = m.DeepCopy()
	if err := b.Delete(ctx, m); err != nil {
		return fmt.Errorf("delete the migration: %w", err)
	}
	return b.AwaitFor(ctx, settleLimit, m, "the Migration to be gone", func(exists bool) (bool, error) { return !exists, nil })
}
