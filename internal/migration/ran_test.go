// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestOnlyARunWithABeginningCounts(t *testing.T) {
	began := metav1.NewTime(testNow)
	run := func(id string) corev1.ContainerStatus {
		return corev1.ContainerStatus{ContainerID: "containerd://" + id, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: began}}}
	}
	end := func(id, reason string, at metav1.Time) corev1.ContainerState {
		return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ContainerID: "containerd://" + id, Reason: reason, StartedAt: at}}
	}
	epoch := metav1.Unix(0, 0)
	waiting := corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}
	for name, tc := range map[string]struct {
		status        corev1.ContainerStatus
		ran, neverRan bool // of container c1
	}{
		"nothing":                          {corev1.ContainerStatus{}, false, false},
		"runs":                             {run("c1"), true, false},
		"another runs":                     {run("c2"), false, false},
		"ended":                            {corev1.ContainerStatus{State: end("c1", "Completed", began)}, true, false},
		"crashed, and waits":               {corev1.ContainerStatus{State: waiting, LastTerminationState: end("c1", "Error", began), RestartCount: 1}, true, false},
		"another crashed":                  {corev1.ContainerStatus{State: waiting, LastTerminationState: end("c2", "Error", began), RestartCount: 1}, false, false},
		"its start failed":                 {corev1.ContainerStatus{State: end("c1", "StartError", epoch)}, false, true},
		"its start failed, without a time": {corev1.ContainerStatus{State: end("c1", "Error", metav1.Time{})}, false, true},
		"could not run, with a time":       {corev1.ContainerStatus{State: waiting, LastTerminationState: end("c1", "ContainerCannotRun", began), RestartCount: 1}, false, true},
		"another's start failed":           {corev1.ContainerStatus{State: end("c2", "StartError", epoch)}, false, false},
		"restarts, and no trace of a run":  {corev1.ContainerStatus{State: waiting, RestartCount: 3}, false, false},
		"ended, then another's start failed": {corev1.ContainerStatus{State: end("c2", "StartError", epoch),
			LastTerminationState: end("c1", "Error", began)}, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := HasRun(&tc.status, "c1"); got != tc.ran {
				t.Errorf("HasRun %v, want %v", got, tc.ran)
			}
			if got := NeverRan(&tc.status, "c1"); got != tc.neverRan {
				t.Errorf("NeverRan %v, want %v", got, tc.neverRan)
			}
		})
	}
}
