// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/test/harness"
)

// statefulSet starts one with its Service, and returns its pods.
func (s *scenario) statefulSet(n int32) []corev1.Pod {
	s.Helper()
	labels := map[string]string{"app": "web"}
	s.must(s.Create(s.ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: "web"},
		Spec: corev1.ServiceSpec{Selector: labels, ClusterIP: corev1.ClusterIPNone, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}}}}))
	set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: "web"},
		Spec: appsv1.StatefulSetSpec{Replicas: &n, ServiceName: "web", Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: s.template()}}
	s.must(s.Create(s.ctx, set))
	s.must(s.AwaitFor(s.ctx, scenarioTimeout, set, "the StatefulSet", func(bool) (bool, error) { return set.Status.AvailableReplicas == n, nil }))
	return s.podsOf(int(n))
}

// keepsItsName checks that a pod has the name and the number that it had.
func (s *scenario) keepsItsName(pod *corev1.Pod, was *corev1.Pod) {
	s.Helper()
	if pod.Name != was.Name || pod.UID == was.UID || pod.Labels[appsv1.PodIndexLabel] != was.Labels[appsv1.PodIndexLabel] {
		s.Errorf("%s (%s, %v) is not made again: %s (%s, %v)", was.Name, was.UID, was.Labels, pod.Name, pod.UID, pod.Labels)
	}
	if ref := metav1.GetControllerOf(pod); ref == nil || ref.UID != metav1.GetControllerOf(was).UID {
		s.Errorf("its owners are %+v", pod.OwnerReferences)
	}
	if name := strings.TrimSpace(s.sh(pod.Name, "hostname")); name != was.Name {
		s.Errorf("its host name is %q", name)
	}
}

// A StatefulSet's pod moves under its name, and back. The other one is not touched.
func TestOwnersStatefulSet(t *testing.T) {
	s := begin(t)
	pods := s.statefulSet(2)
	was := pods[0]
	p, other := s.follow(&was), s.follow(&pods[1])
	var made, gone []string
	h := s.watchPods(p.pod, "there")
	for _, name := range []string{"there", "back"} {
		m := s.migration(name, was.Name)
		before := p.pod
		p.continues(s.arrived(m))
		s.keepsItsName(p.pod, before)
		made, gone = append(made, was.Name, m.Status.Placeholder.PodName), append(gone, was.Name, m.Status.Placeholder.PodName)
		s.nothingLeft(m)
	}
	if now := s.pod(pods[1].Name); now.UID != pods[1].UID {
		t.Error("the other pod was replaced")
	}
	other.unharmed()
	s.podsOf(2)
	h.nothingBut(append(podNames(pods), made...), gone)
}

// The first restore is killed when the source is gone. It is tried again, with the
// same images.
func TestOwnersStatefulSetRestoresAgain(t *testing.T) {
	s := begin(t)
	pods := s.statefulSet(1)
	p := s.follow(&pods[0])
	m := s.migration("m", p.pod.Name)
	s.await(m, "the pod to be replaced", harness.InPhase(v1alpha1.PhaseReplacing))
	target, err := s.Nodes.Node(m.Status.Target.NodeName)
	s.must(err)
	_, err = target.Output(s.ctx, "for i in $(seq 3000); do pkill -9 -x criu && exit 0; sleep 0.02; done; exit 1")
	s.must(err)
	s.await(m, "a restore to have failed", func(m *v1alpha1.Migration) bool { return m.Status.Target.FailedRestores > 0 })
	if f := m.Status.Target.Failure; f == nil || f.Reason != v1alpha1.ReasonRestoreFailed {
		t.Errorf("failure = %+v", f)
	}
	s.finish(m, v1alpha1.PhaseSucceeded)
	pod := s.pod(p.pod.Name)
	s.must(s.AwaitPodReady(s.ctx, pod))
	s.keepsItsName(pod, p.pod)
	p.continues(pod)
	s.logDowntime(m)
	s.nothingLeft(m)
}
