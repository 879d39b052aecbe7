// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"godwit.dev/godwit/api/v1alpha1"
)

func TestDrainOf(t *testing.T) {
	taint := func(key string, effect corev1.TaintEffect) func(*corev1.Node) {
		return func(n *corev1.Node) { n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Effect: effect}) }
	}
	cordoned := func(n *corev1.Node) { n.Spec.Unschedulable = true }
	annotated := func(k, v string) func(*corev1.Node) {
		return func(n *corev1.Node) {
			if n.Annotations == nil {
				n.Annotations = map[string]string{}
			}
			n.Annotations[k] = v
		}
	}
	for name, tc := range map[string]struct {
		changes []func(*corev1.Node)
		by      string
		leaving bool
	}{
		"nothing":                       {nil, "", false},
		"only cordoned":                 {[]func(*corev1.Node){cordoned}, "", true},
		"cluster-autoscaler":            {[]func(*corev1.Node){taint("ToBeDeletedByClusterAutoscaler", corev1.TaintEffectNoSchedule)}, "cluster-autoscaler", true},
		"deletion candidate only":       {[]func(*corev1.Node){taint("DeletionCandidateOfClusterAutoscaler", corev1.TaintEffectPreferNoSchedule)}, "", false},
		"Karpenter":                     {[]func(*corev1.Node){taint("karpenter.sh/disrupted", corev1.TaintEffectNoSchedule)}, "Karpenter", true},
		"a mark that keeps nobody away": {[]func(*corev1.Node){taint("karpenter.sh/disrupted", corev1.TaintEffectPreferNoSchedule)}, "", false},
		"maintenance":                   {[]func(*corev1.Node){cordoned, taint("medik8s.io/drain", corev1.TaintEffectNoSchedule)}, "node maintenance", true},
		"our annotation":                {[]func(*corev1.Node){cordoned, annotated(v1alpha1.AnnotationDrain, "true")}, "annotation godwit.dev/drain", true},
		"our annotation, not cordoned":  {[]func(*corev1.Node){annotated(v1alpha1.AnnotationDrain, "true")}, "", false},
		"our annotation, off":           {[]func(*corev1.Node){cordoned, annotated(v1alpha1.AnnotationDrain, "false")}, "", true},
		"any other taint":               {[]func(*corev1.Node){taint("node.kubernetes.io/not-ready", corev1.TaintEffectNoExecute)}, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			n := &corev1.Node{}
			for _, c := range tc.changes {
				c(n)
			}
			by := ""
			if d := DrainOf(n); d != nil {
				by = d.By
			}
			if by != tc.by || Leaving(n) != tc.leaving {
				t.Errorf("by %q, leaving %v; want %q, %v", by, Leaving(n), tc.by, tc.leaving)
			}
		})
	}
	n := &corev1.Node{}
	cordoned(n)
	annotated(v1alpha1.AnnotationDrain, "true")(n)
	annotated(v1alpha1.AnnotationDrainDeadline, "2026-01-02T03:04:05Z")(n)
	if got := DrainDeadline(n, nil); !got.Equal(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)) {
		t.Errorf("deadline %v", got)
	}
	n.Spec.Unschedulable = false
	if got := DrainDeadline(n, nil); !got.IsZero() {
		t.Errorf("a node in use has the deadline %v", got)
	}
	if DrainOf(nil) != nil || Leaving(nil) {
		t.Error("a node that does not exist is drained")
	}
}

func TestHurry(t *testing.T) {
	now := time.Unix(1000, 0)
	minutes := func(n int) *metav1.Duration { return &metav1.Duration{Duration: time.Duration(n) * time.Minute} }
	for name, tc := range map[string]struct {
		left    time.Duration
		timeout *metav1.Duration
		rounds  *int32
		// what becomes of it
		wantTimeout *metav1.Duration
		wantRounds  *int32
		onStall     v1alpha1.OnStallPolicy
	}{
		"plenty of time":             {time.Hour, minutes(15), nil, minutes(15), nil, v1alpha1.OnStallAbort},
		"plenty, and the default":    {time.Hour, nil, nil, nil, nil, v1alpha1.OnStallAbort},
		"less than the timeout":      {5 * time.Minute, minutes(15), nil, minutes(5), nil, v1alpha1.OnStallAbort},
		"less than the default":      {5 * time.Minute, nil, nil, minutes(5), nil, v1alpha1.OnStallAbort},
		"little":                     {time.Minute, nil, ptr(int32(8)), minutes(1), ptr(int32(2)), v1alpha1.OnStallStopAndCopy},
		"little, fewer rounds asked": {time.Minute, nil, ptr(int32(1)), minutes(1), ptr(int32(1)), v1alpha1.OnStallStopAndCopy},
		"next to none":               {5 * time.Second, nil, nil, minutes(1), ptr(int32(0)), v1alpha1.OnStallStopAndCopy},
		"past":                       {-time.Hour, minutes(15), nil, minutes(1), ptr(int32(0)), v1alpha1.OnStallStopAndCopy},
	} {
		t.Run(name, func(t *testing.T) {
			p := Policy{Timeout: tc.timeout, PreCopy: v1alpha1.PreCopySpec{MaxRounds: tc.rounds, OnStall: v1alpha1.OnStallAbort}}
			got := Hurry(p, now, now.Add(tc.left))
			want := Policy{Timeout: tc.wantTimeout, PreCopy: v1alpha1.PreCopySpec{MaxRounds: tc.wantRounds, OnStall: tc.onStall}}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(- want, + got):\n%s", diff)
			}
			if diff := cmp.Diff(p, Hurry(p, now, time.Time{})); diff != "" {
				t.Errorf("without a deadline:\n%s", diff)
			}
		})
	}
}
