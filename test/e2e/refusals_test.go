// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/test/harness"
)

// What cannot be moved is refused before anything is touched, for a typed
// reason. A dry run says so too, and says when a pod can be moved.
func TestRefusals(t *testing.T) {
	s := begin(t)
	movable := s.MemhogPod(s.namespace, "movable", "SIZE_MIB=4", "DIRTY_MIB_PER_SECOND=1")
	mptcp := s.MemhogPod(s.namespace, "mptcp", "SIZE_MIB=4", "MPTCP=1")
	ring := s.MemhogPod(s.namespace, "ring", "SIZE_MIB=4", "IO_URING=1")
	host := s.MemhogPod(s.namespace, "host", "SIZE_MIB=4")
	host.Spec.Volumes = []corev1.Volume{{Name: "host", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/var/log"}}}}
	host.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "host", MountPath: "/host"}}
	s.start(movable, mptcp, ring, host)
	p := s.follow(movable)

	for _, c := range []struct {
		pod    *corev1.Pod
		reason string
	}{
		{mptcp, v1alpha1.ReasonMultipathTCP},
		{ring, v1alpha1.ReasonIOUring},
		{host, v1alpha1.ReasonVolumeNotPortable},
		{s.owned(), v1alpha1.ReasonOwnedPod},
		{&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "nobody"}}, v1alpha1.ReasonSourcePodNotFound},
	} {
		s.step(c.reason, func() {
			m := s.migration("move-"+c.pod.Name, c.pod.Name)
			s.finish(m, v1alpha1.PhaseFailed)
			if f := m.Status.Failure; f == nil || f.Reason != c.reason || f.Message == "" {
				s.Errorf("failure %+v, want %s", f, c.reason)
			}
			if h := m.Status.Handover; h != nil {
				s.Errorf("the register was written: %+v", h)
			}
			if c.pod.UID != "" {
				s.stayed(m, c.pod)
			}
		})
	}
	s.step("DryRun", func() {
		m := s.migration("dry", movable.Name, func(spec *v1alpha1.MigrationSpec) { spec.DryRun = true })
		s.finish(m, v1alpha1.PhaseSucceeded)
		if !harness.InPhase(v1alpha1.PhasePreparing)(m) || harness.InPhase(v1alpha1.PhasePreCopying)(m) {
			s.Errorf("a dry run went through\n%s", harness.Summary(m))
		}
		s.stayed(m, movable)
		p.unharmed()
	})
}

// owned starts a pod of a DaemonSet.
func (s *scenario) owned() *corev1.Pod {
	s.Helper()
	pod := s.MemhogPod(s.namespace, "owned", "SIZE_MIB=4")
	pod.Spec.TerminationGracePeriodSeconds = nil
	set := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: "owned"}, Spec: appsv1.DaemonSetSpec{
		Selector: &metav1.LabelSelector{MatchLabels: pod.Labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: pod.Labels}, Spec: pod.Spec},
	}}
	s.must(s.Create(s.ctx, set))
	s.must(s.AwaitFor(s.ctx, scenarioTimeout, set, "the DaemonSet's pods", func(bool) (bool, error) { return set.Status.NumberReady == 2, nil }))
	var pods corev1.PodList
	s.must(s.List(s.ctx, &pods, client.InNamespace(s.namespace), client.MatchingLabels(pod.Labels)))
	if len(pods.Items) != 2 {
		s.Fatalf("the DaemonSet has %d pods", len(pods.Items))
	}
	return &pods.Items[0]
}
