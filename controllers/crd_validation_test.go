// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/api/v1alpha1"
)

func TestAPIRefusesBadSpecs(t *testing.T) {
	f := newNamespace(t)
	long := strings.Repeat("a", 254)
	for name, tc := range map[string]struct {
		spec map[string]any
		// says is part of the API server's answer; "" means accepted.
		says string
	}{
		"the least":                   {map[string]any{"podName": "redis"}, ""},
		"everything":                  {map[string]any{"podName": "redis.v1", "targetNode": "n2", "targetPodName": "redis-2", "timeout": "1h", "switchoverTimeout": "500ms", "dryRun": true, "ttlSecondsAfterFinished": int64(0), "preCopy": map[string]any{"maxRounds": int64(0), "targetDowntime": "1ms", "roundTimeout": "1h30m", "onStall": "Abort"}}, ""},
		"no pod":                      {map[string]any{}, "spec.podName: Required"},
		"empty pod name":              {map[string]any{"podName": ""}, "spec.podName"},
		"upper case pod name":         {map[string]any{"podName": "Redis"}, "spec.podName"},
		"pod name with a slash":       {map[string]any{"podName": "a/b"}, "spec.podName"},
		"long pod name":               {map[string]any{"podName": long}, "spec.podName: Too long"},
		"target has the same name":    {map[string]any{"podName": "redis", "targetPodName": "redis"}, "targetPodName must differ from podName"},
		"bad target name":             {map[string]any{"podName": "redis", "targetPodName": "-x"}, "spec.targetPodName"},
		"long target name":            {map[string]any{"podName": "redis", "targetPodName": long}, "spec.targetPodName: Too long"},
		"long node name":              {map[string]any{"podName": "redis", "targetNode": long}, "spec.targetNode: Too long"},
		"negative rounds":             {map[string]any{"podName": "redis", "preCopy": map[string]any{"maxRounds": int64(-1)}}, "spec.preCopy.maxRounds"},
		"too many rounds":             {map[string]any{"podName": "redis", "preCopy": map[string]any{"maxRounds": int64(17)}}, "spec.preCopy.maxRounds"},
		"no downtime at all":          {map[string]any{"podName": "redis", "preCopy": map[string]any{"targetDowntime": "0s"}}, "targetDowntime must be positive"},
		"negative downtime":           {map[string]any{"podName": "redis", "preCopy": map[string]any{"targetDowntime": "-1s"}}, "targetDowntime must be positive"},
		"negative round timeout":      {map[string]any{"podName": "redis", "preCopy": map[string]any{"roundTimeout": "-1s"}}, "roundTimeout must be positive"},
		"negative timeout":            {map[string]any{"podName": "redis", "timeout": "-15m"}, "timeout must be positive"},
		"zero switchover timeout":     {map[string]any{"podName": "redis", "switchoverTimeout": "0s"}, "switchoverTimeout must be positive"},
		"a timeout that is no number": {map[string]any{"podName": "redis", "timeout": "soon"}, "spec.timeout"},
		"unknown policy":              {map[string]any{"podName": "redis", "preCopy": map[string]any{"onStall": "Sometimes"}}, "spec.preCopy.onStall"},
		"negative time to live":       {map[string]any{"podName": "redis", "ttlSecondsAfterFinished": int64(-1)}, "spec.ttlSecondsAfterFinished"},
	} {
		t.Run(name, func(t *testing.T) {
			u := &unstructured.Unstructured{Object: map[string]any{"spec": tc.spec}}
			u.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("Migration"))
			u.SetNamespace(f.ns)
			u.SetGenerateName("m-")
			err := testClient.Create(f.ctx, u)
			switch {
			case tc.says == "" && err != nil:
				t.Errorf("refused: %v", err)
			case tc.says != "" && !apierrors.IsInvalid(err):
				t.Errorf("err = %v, want it to be invalid", err)
			case tc.says != "" && !strings.Contains(err.Error(), tc.says):
				t.Errorf("err = %v, want it to say %q", err, tc.says)
			}
		})
	}
}

func TestAPIPutsInDefaults(t *testing.T) {
	f := newNamespace(t)
	m := f.create("m", v1alpha1.MigrationSpec{PodName: "redis"})
	s := m.Spec
	if s.Timeout.Duration != 15*time.Minute || s.SwitchoverTimeout.Duration != time.Minute ||
		*s.PreCopy.MaxRounds != 8 || s.PreCopy.TargetDowntime.Duration != 2*time.Second ||
		s.PreCopy.RoundTimeout.Duration != 5*time.Minute || s.PreCopy.OnStall != v1alpha1.OnStallStopAndCopy || s.DryRun {
		t.Errorf("spec = %+v", s)
	}
}

func TestSpecCannotBeChanged(t *testing.T) {
	f := newNamespace(t)
	for name, change := range map[string]func(*v1alpha1.MigrationSpec){
		"pod":        func(s *v1alpha1.MigrationSpec) { s.PodName = "other" },
		"node":       func(s *v1alpha1.MigrationSpec) { s.TargetNode = "n2" },
		"dry run":    func(s *v1alpha1.MigrationSpec) { s.DryRun = true },
		"timeout":    func(s *v1alpha1.MigrationSpec) { s.Timeout = &metav1.Duration{Duration: time.Hour} },
		"rounds":     func(s *v1alpha1.MigrationSpec) { n := int32(1); s.PreCopy.MaxRounds = &n },
		"no timeout": func(s *v1alpha1.MigrationSpec) { n := int32(9); s.TTLSecondsAfterFinished = &n },
	} {
		t.Run(name, func(t *testing.T) {
			m := &v1alpha1.Migration{ObjectMeta: metav1.ObjectMeta{Namespace: f.ns, GenerateName: "m-"}, Spec: v1alpha1.MigrationSpec{PodName: "redis"}}
			f.must(testClient.Create(f.ctx, m), "create")
			patch := client.MergeFrom(m.DeepCopy())
			change(&m.Spec)
			err := testClient.Patch(f.ctx, m, patch)
			if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "spec is immutable") {
				t.Errorf("err = %v", err)
			}
		})
	}
	m := f.create("labelled", v1alpha1.MigrationSpec{PodName: "redis"})
	patch := client.MergeFrom(m.DeepCopy())
	m.Labels = map[string]string{"a": "b"}
	f.must(testClient.Patch(f.ctx, m, patch), "a label is no part of the spec")
}

func TestMigrationsAreSelectableByPod(t *testing.T) {
	f := newNamespace(t)
	f.create("one", v1alpha1.MigrationSpec{PodName: "redis"})
	f.create("two", v1alpha1.MigrationSpec{PodName: "other"})
	var list v1alpha1.MigrationList
	f.must(testClient.List(f.ctx, &list, client.InNamespace(f.ns), client.MatchingFields{"spec.podName": "redis"}), "list")
	if len(list.Items) != 1 || list.Items[0].Name != "one" {
		t.Errorf("list = %+v", list.Items)
	}
}

func TestReportsMayLeaveTimesOut(t *testing.T) {
	f := newNamespace(t)
	f.create("m", v1alpha1.MigrationSpec{PodName: "redis"})
	n := int32(1)
	f.sourceReports("m", v1alpha1.SourceReport{State: v1alpha1.SourcePreCopying, Round: &n,
		Containers: []v1alpha1.SourceContainerStatus{{Name: "app", Rounds: []v1alpha1.RoundStatus{{}}, FinalDump: &v1alpha1.DumpStatus{}}}})
	f.targetReports("m", v1alpha1.TargetReport{State: v1alpha1.TargetGated,
		Containers: []v1alpha1.TargetContainerStatus{{Name: "app", Restore: &v1alpha1.RestoreStatus{}}}})
	if m := f.get("m"); m.Status.Source.State != v1alpha1.SourcePreCopying || len(m.Status.Target.Containers) != 1 {
		t.Errorf("status = %+v", m.Status)
	}
}
