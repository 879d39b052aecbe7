// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package toolchain

import (
	"slices"
	"strings"
	"testing"

	"godwit.dev/godwit/test/cluster/pins"
)

func TestStagingReplacements(t *testing.T) {
	goMod := "module k8s.io/kubernetes\n\nrequire (\n\tk8s.io/api v0.0.0\n\tk8s.io/klog/v2 v2.140.0\n\tk8s.io/client-go v0.0.0 // indirect\n\tk8s.io/utils v0.0.0-20260101000000-abcdefabcdef\n)\n"
	got, err := stagingReplacements(goMod, "v1.37.2")
	if err != nil {
		t.Fatal(err)
	}
	want := "\nreplace k8s.io/api => k8s.io/api v0.37.2\n\nreplace k8s.io/client-go => k8s.io/client-go v0.37.2\n"
	if got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if _, err := stagingReplacements("module x\n", "v1.37.2"); err == nil {
		t.Error("a go.mod without staging modules was accepted")
	}
}

func TestKeyFollowsWhatGoesIn(t *testing.T) {
	v := pins.Get()
	key := Kubernetes(v).Key("go1")
	if key != Kubernetes(v).Key("go1") {
		t.Error("the same tool has two keys")
	}
	if key == Kubernetes(v).Key("go2") {
		t.Error("another compiler, the same key")
	}
	v.Kubernetes = "v1.37.3"
	if key == Kubernetes(v).Key("go1") {
		t.Error("another version, the same key")
	}
}

func TestKubernetesKnowsItsVersion(t *testing.T) {
	v := pins.Get()
	args := Kubernetes(v).buildArgs(Program{Name: "kubelet", Package: "p"}, "out")
	flags := args[slices.Index(args, "-ldflags")+1]
	for _, want := range []string{
		"-X k8s.io/component-base/version.gitVersion=" + v.Kubernetes,
		"-X k8s.io/client-go/pkg/version.gitMinor=37",
	} {
		if !strings.Contains(flags, want) {
			t.Errorf("%q is missing in %q", want, flags)
		}
	}
}
