// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package runtimetest

import (
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
	allowed("before any guard", "one")
	g.Release("one") // never guarded
	g.Guard("one", "it is frozen")
	refused("once guarded", "one", "it is frozen")
	refused("asked again", "one", "it is frozen")
	allowed("with another pod guarded", "two")
	g.Guard("one", "it has moved")
	g.Guard("two", "it is frozen too")
	refused("guarded for another reason", "one", "it has moved")
	g.Release("one")
	allowed("after one release", "one")
	refused("with the other pod released", "two", "it is frozen too")
	g.Release("one")
	g.Release("two")
	allowed("after the release", "two")
}
