// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/api/v1alpha1"
)

// tellsTheStory checks that kubectl get, kubectl describe and the events tell
// how a migration went, without a look into any log.
func (s *scenario) tellsTheStory(m *v1alpha1.Migration, target *corev1.Pod) {
	s.Helper()
	out, err := s.KubectlRun(s.ctx, "-n", s.namespace, "get", "mig", m.Name)
	s.must(err)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if want := []string{"NAME", "POD", "FROM", "TO", "PHASE", "ROUND", "DIRTY", "DOWNTIME", "AGE"}; !slices.Equal(strings.Fields(lines[0]), want) {
		s.Errorf("kubectl get mig prints the columns %s", lines[0])
	}
	if f := strings.Fields(lines[len(lines)-1]); len(f) != 9 || f[2] != m.Status.Source.NodeName || f[3] != target.Spec.NodeName || f[4] != "Succeeded" {
		s.Errorf("kubectl get mig prints\n%s", out)
	}

	var events eventsv1.EventList
	s.must(s.List(s.ctx, &events, client.InNamespace(s.namespace)))
	told := map[string][]string{}
	for _, e := range events.Items {
		told[string(e.Regarding.UID)] = append(told[string(e.Regarding.UID)], e.Reason)
	}
	for uid, want := range map[string][]string{
		string(m.UID): {
			"Accepted", "Preparing", "PreCopying", "TargetPodCreated", "TargetPodScheduled", "RoundFinished", "Converged",
			"TargetParked", "SwitchingOver", "FinalDump", "Committed", "Restored", "Completing", "SourceKilled", "Succeeded",
		},
		string(target.UID):             {"TargetReady", "HandedOver", "Succeeded"},
		string(m.Status.Source.PodUID): {"PreCopying", "SwitchingOver", "HandedOver", "Completing"},
	} {
		for _, reason := range want {
			if !slices.Contains(told[uid], reason) {
				s.Errorf("no event %s among %v", reason, told[uid])
			}
		}
	}
	description, err := s.KubectlRun(s.ctx, "-n", s.namespace, "describe", "mig", m.Name)
	s.must(err)
	for _, want := range []string{"Phase Transition Timestamps", "Final Dump", "Frozen", "Dirty Bytes", "Predicted Downtime", "Freeze And Dump", "Handover", "Manifest Digest", "Events:", "RoundFinished"} {
		if !strings.Contains(description, want) {
			s.Errorf("kubectl describe mig says nothing of %q\n%s", want, description)
		}
	}
	for _, c := range []string{v1alpha1.ConditionEligible, v1alpha1.ConditionTargetReady, v1alpha1.ConditionConverged, v1alpha1.ConditionHandedOver, v1alpha1.ConditionComplete} {
		if !meta.IsStatusConditionTrue(m.Status.Conditions, c) {
			s.Errorf("condition %s is not true: %+v", c, meta.FindStatusCondition(m.Status.Conditions, c))
		}
	}
}
