// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cmp"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/migration"
	"godwit.dev/godwit/node-agent/runtime"
)

// inOrder sorts containers as kubelet creates them: by the pod's specification or,
// when that is gone, as they were reported.
func inOrder(cs []runtime.Container, pod *corev1.Pod, reported []v1alpha1.SourceContainerStatus) []runtime.Container {
	place := map[string]int{}
	for i, c := range reported {
		place[c.Name] = i
	}
	if pod != nil {
		for i, c := range migration.Containers(pod) {
			place[c.Name] = i
		}
	}
	slices.SortStableFunc(cs, func(a, b runtime.Container) int { return cmp.Compare(place[a.Name], place[b.Name]) })
	return cs
}
