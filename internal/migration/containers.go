// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// Containers are the containers of a pod that run on, in the order in which kubelet
// creates them: its sidecars, then the others. Ordinary init containers have done
// their work, and the gate is one of them.
func Containers(pod *corev1.Pod) []corev1.Container {
	return append(Sidecars(pod), pod.Spec.Containers...)
}

// Sidecars are a pod's init containers that run on beside its containers.
func Sidecars(pod *corev1.Pod) []corev1.Container {
	var found []corev1.Container
	for _, c := range pod.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			found = append(found, c)
		}
	}
	return found
}

// ContainerStatus is what kubelet says of a container or an init container, nil when
// it says nothing.
func ContainerStatus(pod *corev1.Pod, name string) *corev1.ContainerStatus {
	for _, list := range [][]corev1.ContainerStatus{pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses} {
		if i := slices.IndexFunc(list, func(s corev1.ContainerStatus) bool { return s.Name == name }); i >= 0 {
			return &list[i]
		}
	}
	return nil
}
