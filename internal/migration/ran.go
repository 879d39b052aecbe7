// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Reasons of a container that has ended without ever having run. Its create or
// start failed; containerd says StartError, other runtimes ContainerCannotRun.
const (
	reasonStartError = "StartError"
	reasonCannotRun  = "ContainerCannotRun"
)

// HasRun says whether kubelet has seen a container run: it does, or the run that
// ended last had a beginning. A restart count proves nothing, for a create that
// failed counts as well. With an id, which is the runtime's without a scheme,
// only the run of that container counts.
func HasRun(s *corev1.ContainerStatus, id string) bool {
	is := func(other string) bool { return id == "" || bareID(other) == id }
	return s.State.Running != nil && is(s.ContainerID) ||
		ended(s.State.Terminated, is) || ended(s.LastTerminationState.Terminated, is)
}

// HasEnded says whether kubelet has seen the container with this id end.
func HasEnded(s *corev1.ContainerStatus, id string) bool {
	for _, t := range []*corev1.ContainerStateTerminated{s.State.Terminated, s.LastTerminationState.Terminated} {
		if t != nil && bareID(t.ContainerID) == id {
			return true
		}
	}
	return false
}

// NeverRan says whether kubelet has seen the container with this id end without
// having run.
func NeverRan(s *corev1.ContainerStatus, id string) bool {
	for _, t := range []*corev1.ContainerStateTerminated{s.State.Terminated, s.LastTerminationState.Terminated} {
		if t != nil && bareID(t.ContainerID) == id && !began(t) {
			return true
		}
	}
	return false
}

func ended(t *corev1.ContainerStateTerminated, is func(id string) bool) bool {
	return t != nil && is(t.ContainerID) && began(t)
}

// began: the runtime's beginning of a container that never ran is the epoch.
func began(t *corev1.ContainerStateTerminated) bool {
	return t.StartedAt.Unix() > 0 && t.Reason != reasonStartError && t.Reason != reasonCannotRun
}

func bareID(id string) string {
	if _, bare, ok := strings.Cut(id, "://"); ok {
		return bare
	}
	return id
}
