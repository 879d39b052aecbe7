// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package runtimetest

import (
	"slices"
	"strings"
	"testing"

	"godwit.dev/godwit/node-agent/runtime"
)

// Guard checks the contract of runtime.Guard. create asks the node for a new
// container in a pod, as kubelet does.
func Guard(t *testing.T, g runtime.Guard, create func(podUID string) error) {
	t.Helper()
	allowed := func(when, podUID string) {
		t.Helper()
		if err := create(podUID); err != nil {
			t.Errorf("%s, a container of pod %s was refused: %v", when, podUID, err)
		}
	}
	refused := func(when, podUID, why string) {
		t.Helper()
		if err := create(podUID); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%s, a container of pod %s was not refused because %q: %v", when, podUID, why, err)
		}
	}
	guard := func(podUID, why string) {
		t.Helper()
		if err := g.Guard(runtime.Guarded{Namespace: "default", Pod: "pod-" + podUID, PodUID: podUID, MigrationUID: "m", BootID: "boot", Why: why}); err != nil {
			t.Errorf("guard pod %s: %v", podUID, err)
		}
	}
	release := func(podUID string) {
		t.Helper()
		if err := g.Release(podUID); err != nil {
			t.Errorf("release pod %s: %v", podUID, err)
		}
	}
	known := func(when string, want ...string) {
		t.Helper()
		all, err := g.Guarded()
		if err != nil {
			t.Errorf("%s: %v", when, err)
		}
		var got []string
		for _, p := range all {
			got = append(got, p.PodUID)
			if p.Pod != "pod-"+p.PodUID || p.MigrationUID != "m" || p.BootID != "boot" || p.Why == "" {
				t.Errorf("%s, guarded is %+v", when, p)
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s, guarded are %v, want %v", when, got, want)
		}
	}
	allowed("before any guard", "one")
	release("one") // never guarded
	known("before any guard")
	guard("one", "it is frozen")
	refused("once guarded", "one", "it is frozen")
	refused("asked again", "one", "it is frozen")
	allowed("with another pod guarded", "two")
	guard("one", "it has moved")
	guard("two", "it is frozen too")
	refused("guarded for another reason", "one", "it has moved")
	known("with two", "one", "two")
	release("one")
	allowed("after one release", "one")
	refused("with the other pod released", "two", "it is frozen too")
	known("with one left", "two")
	release("one")
	release("two")
	allowed("after the release", "two")
	known("in the end")
}
