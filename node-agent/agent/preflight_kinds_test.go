// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/node-agent/runtime"
)

// Each thing that cannot be dumped has a reason of its own, and a message.
func TestRefusalsOfWhatProcessesHold(t *testing.T) {
	pod := &corev1.Pod{Status: corev1.PodStatus{PodIPs: []corev1.PodIP{{IP: "10.1.2.3"}}}}
	for reason, i := range map[string]runtime.Inspection{
		v1alpha1.ReasonMultipathTCP:       {MultipathTCP: []string{"[::]:80"}},
		v1alpha1.ReasonUnsupportedSocket:  {UnsupportedSockets: []string{"AF_ALG"}},
		v1alpha1.ReasonIOUring:            {IOUring: true},
		v1alpha1.ReasonMessageQueue:       {MessageQueues: true},
		v1alpha1.ReasonProcessTraced:      {Traced: true},
		v1alpha1.ReasonHugePages:          {HugePages: true},
		v1alpha1.ReasonTerminal:           {Terminal: true},
		v1alpha1.ReasonExecSession:        {ExecSessions: 1},
		v1alpha1.ReasonDevices:            {Devices: []string{"/dev/kvm"}},
		v1alpha1.ReasonPodAddressListener: {BoundAddresses: []string{"10.1.2.3:80"}},
		v1alpha1.ReasonDescriptor:         {Descriptors: []string{"[userfaultfd]"}},
		v1alpha1.ReasonNestedNamespace:    {Namespaces: []string{"pid"}},
		v1alpha1.ReasonDeletedFile:        {DeletedFiles: []string{"/data/x"}},
		v1alpha1.ReasonForeignFile:        {ForeignFiles: []string{"/x"}},
		v1alpha1.ReasonLostWatch:          {LostWatches: []string{"inode 1 of device 8:1"}},
	} {
		got := processRefusals(i, pod)
		if len(got) != 1 || got[0].Reason != reason || len(got[0].Message) < 20 {
			t.Errorf("%s: %+v", reason, got)
		}
	}
	harmless := runtime.Inspection{Processes: 3, EstablishedTCP: 7, BoundAddresses: []string{"10.9.9.9:80"}, SharedBytes: 1 << 20}
	if got := processRefusals(harmless, pod); len(got) != 0 {
		t.Errorf("refused: %+v", got)
	}
}

// A pod that keeps its address may be bound to it.
func TestPodAddressIsNoObstacleWhereItIsKept(t *testing.T) {
	pod := &corev1.Pod{Status: corev1.PodStatus{PodIPs: []corev1.PodIP{{IP: "10.1.2.3"}}}}
	c := checked{pod: pod, containers: []runtime.Container{{Name: "main"}}, inspections: map[string]runtime.Inspection{"main": {BoundAddresses: []string{"10.1.2.3:80"}}}}
	refused := func() bool {
		return slices.ContainsFunc(evaluate(c), func(f v1alpha1.Failure) bool { return f.Reason == v1alpha1.ReasonPodAddressListener })
	}
	if !refused() {
		t.Error("not refused")
	}
	if c.keepsAddress = true; refused() {
		t.Error("refused although the address is kept")
	}
}
