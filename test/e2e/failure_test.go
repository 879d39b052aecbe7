// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/test/harness"
)

// TestARestoreThatFailsGivesTheSourceBack lets the restore fail for a real
// reason, after the commit: criu has gone from the target since it was found there.
func TestARestoreThatFailsGivesTheSourceBack(t *testing.T) {
	s := begin(t)
	pod, hog := s.startMemhog("hog")
	before, err := hog.Status(s.ctx)
	s.must(err)
	other := map[string]string{"n1": "n2", "n2": "n1"}[pod.Spec.NodeName]
	node, err := s.Nodes.Node(other)
	s.must(err)
	// A criu that is not there any more is what a half-done upgrade looks like.
	hide(s, node.Output)
	m := s.move("broken", pod, func(spec *v1alpha1.MigrationSpec) { spec.TargetNode = other })
	if m.Status.Phase != v1alpha1.PhaseFailed || m.Status.Failure.Reason != v1alpha1.ReasonRestoreFailed {
		t.Errorf("want Failed for %s\n%s", v1alpha1.ReasonRestoreFailed, harness.Summary(m))
	}
	s.sourceGoesOn(pod, before, hog)
	s.noTarget(m)
}

// hide takes criu away from the node until the test ends. The agent has found it
// there when it reported the node able, and looks again only every few minutes.
func hide(s *scenario, run func(context.Context, string) (string, error)) {
	s.Helper()
	_, err := run(s.ctx, "mv $(command -v criu) /usr/sbin/criu.hidden")
	s.must(err)
	s.Cleanup(func() {
		if _, err := run(context.Background(), "mv /usr/sbin/criu.hidden /usr/sbin/criu"); err != nil {
			s.Errorf("put criu back: %v", err)
		}
	})
}

// noTarget: the target pod is gone.
func (s *scenario) noTarget(m *v1alpha1.Migration) {
	s.Helper()
	if m.Status.Target == nil || m.Status.Target.PodName == "" {
		return
	}
	target := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: m.Status.Target.PodName, UID: m.Status.Target.PodUID}}
	s.must(s.AwaitPodGone(s.ctx, target))
}

// TestCancelInEachPhase cancels by annotation and by deletion.
func TestCancelInEachPhase(t *testing.T) {
	s := begin(t)
	pod, hog := s.startMemhog("hog")
	before, err := hog.Status(s.ctx)
	s.must(err)
	for _, c := range []struct {
		name     string
		when     func(*v1alpha1.Migration) bool
		deletion bool
	}{
		{"preparing", harness.InPhase(v1alpha1.PhasePending), false},
		{"precopying", harness.InPhase(v1alpha1.PhasePreCopying), true},
		{"switching", harness.InPhase(v1alpha1.PhaseSwitchingOver), false},
	} {
		m := harness.Migration(s.ns, c.name, pod.Name)
		s.must(s.Create(s.ctx, m))
		s.must(s.AwaitMigration(s.ctx, m, c.name, c.when))
		if c.deletion {
			s.must(s.Delete(s.ctx, m))
			s.must(s.Await(s.ctx, m, "the Migration to be gone", func(exists bool) (bool, error) { return !exists, nil }))
		} else {
			s.must(s.Cancel(s.ctx, m))
			s.must(s.AwaitFinished(s.ctx, m))
			switch m.Status.Phase {
			case v1alpha1.PhaseCancelled:
			case v1alpha1.PhaseSucceeded:
				// The commit was faster: then it stands, and the pod has moved whole.
				pod = s.succeeded(m)
				hog = harness.MemhogAt(pod)
				before = s.sameProcess(before, hog)
				continue
			default:
				t.Fatalf("want Cancelled\n%s", harness.Summary(m))
			}
		}
		s.sourceGoesOn(pod, before, hog)
		s.noTarget(m)
	}
}

// TestPartsRestartInTheMiddle restarts both agents and the manager while memory
// is copied; the migration ends well.
func TestPartsRestartInTheMiddle(t *testing.T) {
	s := begin(t)
	pod, hog := s.startMemhog("hog")
	before, err := hog.Status(s.ctx)
	s.must(err)
	m := harness.Migration(s.ns, "restarts", pod.Name)
	s.must(s.Create(s.ctx, m))
	s.must(s.AwaitMigration(s.ctx, m, "the first round", harness.InPhase(v1alpha1.PhasePreCopying)))
	for _, find := range []func() (*corev1.Pod, error){
		func() (*corev1.Pod, error) { return s.AgentOn(s.ctx, "n1") },
		func() (*corev1.Pod, error) { return s.AgentOn(s.ctx, "n2") },
		func() (*corev1.Pod, error) { return s.Manager(s.ctx) },
	} {
		part, err := find()
		s.must(err)
		s.must(s.Delete(s.ctx, part))
	}
	s.must(s.AwaitFinished(s.ctx, m))
	s.must(s.AwaitReady(s.ctx))
	if m.Status.Phase == v1alpha1.PhaseSucceeded {
		s.sameProcess(before, harness.MemhogAt(s.succeeded(m)))
		return
	}
	t.Logf("rolled back\n%s", harness.Summary(m))
	s.sourceGoesOn(pod, before, hog)
}

// TestRefusals asks for what cannot be done; every refusal has a typed reason,
// and the pods are not touched.
func TestRefusals(t *testing.T) {
	s := begin(t)
	mptcp, _ := s.startMemhog("mptcp", "MPTCP=1")
	volume := s.MemhogPod(s.ns, "volume", "SIZE_MIB=16")
	volume.Spec.Volumes = []corev1.Volume{{Name: "host", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/var/log"}}}}
	volume.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "host", MountPath: "/host"}}
	volume, err := s.Start(s.ctx, volume)
	s.must(err)
	for pod, reason := range map[*corev1.Pod]string{
		mptcp: v1alpha1.ReasonMultipathTCP, volume: v1alpha1.ReasonVolumeNotPortable,
	} {
		m := s.move("refused-"+pod.Name, pod, func(spec *v1alpha1.MigrationSpec) { spec.DryRun = true })
		if m.Status.Phase != v1alpha1.PhaseFailed || m.Status.Failure == nil || m.Status.Failure.Reason != reason {
			t.Errorf("%s: want Failed for %s\n%s", pod.Name, reason, harness.Summary(m))
		}
		if now, err := s.GetPod(s.ctx, s.ns, pod.Name); err != nil || harness.Restarts(now) != 0 {
			t.Errorf("%s was touched: %v", pod.Name, err)
		}
	}
}
