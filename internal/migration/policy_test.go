// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"math/rand"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"godwit.dev/godwit/api/v1alpha1"
)

func selector(labels ...string) *metav1.LabelSelector {
	s := &metav1.LabelSelector{MatchLabels: map[string]string{}}
	for _, l := range labels {
		k, v, _ := strings.Cut(l, "=")
		s.MatchLabels[k] = v
	}
	return s
}

func policy(name string, pods, namespaces *metav1.LabelSelector, e v1alpha1.Evacuation) v1alpha1.MigrationPolicy {
	return v1alpha1.MigrationPolicy{ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: v1alpha1.MigrationPolicySpec{PodSelector: pods, NamespaceSelector: namespaces, Evacuation: e}}
}

func TestResolvePolicy(t *testing.T) {
	const required, best, none = v1alpha1.EvacuationRequired, v1alpha1.EvacuationBestEffort, v1alpha1.EvacuationNone
	app := map[string]string{"app": "web", "tier": "a"}
	team := map[string]string{"team": "x"}
	broken := &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "app", Operator: "Like"}}}
	with := func(labels map[string]string, mark, value string) map[string]string {
		out := map[string]string{mark: value}
		for k, v := range labels {
			out[k] = v
		}
		return out
	}
	for name, tc := range map[string]struct {
		labels, annotations map[string]string
		policies            []v1alpha1.MigrationPolicy
		want                v1alpha1.EffectivePolicy
	}{
		"nothing selects it": {app, nil, []v1alpha1.MigrationPolicy{policy("p", selector("app=db"), nil, required)},
			v1alpha1.EffectivePolicy{Evacuation: none}},
		"a policy for all": {app, nil, []v1alpha1.MigrationPolicy{policy("p", nil, &metav1.LabelSelector{}, required)},
			v1alpha1.EffectivePolicy{Evacuation: required, Policy: "p"}},
		"of another team": {app, nil, []v1alpha1.MigrationPolicy{policy("p", nil, selector("team=y"), required)},
			v1alpha1.EffectivePolicy{Evacuation: none}},
		"more pod labels win": {app, nil, []v1alpha1.MigrationPolicy{policy("a", selector("app=web"), selector("team=x"), required), policy("b", selector("app=web", "tier=a"), nil, none)},
			v1alpha1.EffectivePolicy{Evacuation: none, Policy: "b"}},
		"then more namespace labels": {app, nil, []v1alpha1.MigrationPolicy{policy("a", selector("app=web"), nil, required), policy("b", selector("app=web"), selector("team=x"), best)},
			v1alpha1.EffectivePolicy{Evacuation: best, Policy: "b"}},
		"then the name": {app, nil, []v1alpha1.MigrationPolicy{policy("b", selector("app=web"), nil, required), policy("a", selector("tier=a"), nil, best)},
			v1alpha1.EffectivePolicy{Evacuation: best, Policy: "a"}},
		"a selector that cannot be read": {app, nil, []v1alpha1.MigrationPolicy{policy("p", broken, nil, required)},
			v1alpha1.EffectivePolicy{Evacuation: none}},
		"the pod's label": {with(app, v1alpha1.MarkEvacuation, "None"), nil, []v1alpha1.MigrationPolicy{policy("p", nil, nil, required)},
			v1alpha1.EffectivePolicy{Evacuation: none, Policy: "p", Overrides: []string{v1alpha1.MarkEvacuation}}},
		"the pod's annotation": {app, with(nil, v1alpha1.MarkEvacuation, "Required"), nil,
			v1alpha1.EffectivePolicy{Evacuation: required, Overrides: []string{v1alpha1.MarkEvacuation}}},
		"the label goes before the annotation": {with(app, v1alpha1.MarkEvacuation, "BestEffort"), with(nil, v1alpha1.MarkEvacuation, "Required"), nil,
			v1alpha1.EffectivePolicy{Evacuation: best, Overrides: []string{v1alpha1.MarkEvacuation}}},
		"what is not understood is not taken": {app, with(nil, v1alpha1.MarkEvacuation, "required"), []v1alpha1.MigrationPolicy{policy("p", nil, nil, best)},
			v1alpha1.EffectivePolicy{Evacuation: best, Policy: "p", Ignored: []string{v1alpha1.MarkEvacuation + "=required: it has to be one of [Required BestEffort None]"}}},
		"priority": {app, with(nil, v1alpha1.MarkPriority, "-7"), []v1alpha1.MigrationPolicy{policy("p", nil, nil, best)},
			v1alpha1.EffectivePolicy{Evacuation: best, Policy: "p", Priority: -7, Overrides: []string{v1alpha1.MarkPriority}}},
	} {
		t.Run(name, func(t *testing.T) {
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Labels: tc.labels, Annotations: tc.annotations}}
			got := ResolvePolicy(pod, team, tc.policies)
			if diff := cmp.Diff(tc.want, got.Effective); diff != "" {
				t.Errorf("(- want, + got):\n%s", diff)
			}
		})
	}
}

func TestMarksTuneThePreCopy(t *testing.T) {
	base := policy("p", nil, nil, v1alpha1.EvacuationRequired)
	base.Spec.PreCopy = v1alpha1.PreCopySpec{OnStall: v1alpha1.OnStallAbort, MaxRounds: ptr(int32(4))}
	base.Spec.Timeout = &metav1.Duration{Duration: time.Minute}
	base.Spec.VolumePolicy = v1alpha1.VolumePolicyHandoff
	base.Spec.Connections = v1alpha1.ConnectionsKeep
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{
		v1alpha1.MarkOnStall: "Throttle", v1alpha1.MarkTargetDowntime: "250ms", v1alpha1.MarkMaxRounds: "17"}}}
	got := ResolvePolicy(pod, nil, []v1alpha1.MigrationPolicy{base})
	want := v1alpha1.PreCopySpec{OnStall: v1alpha1.OnStallThrottle, MaxRounds: ptr(int32(4)), TargetDowntime: &metav1.Duration{Duration: 250 * time.Millisecond}}
	if diff := cmp.Diff(want, got.PreCopy); diff != "" {
		t.Errorf("(- want, + got):\n%s", diff)
	}
	if m := NewEvacuation(pod, got, 0, true); m.Spec.VolumePolicy != v1alpha1.VolumePolicyHandoff || m.Spec.Connections != v1alpha1.ConnectionsKeep {
		t.Errorf("the evacuation is %+v", m.Spec)
	}
	pod.Annotations[v1alpha1.MarkVolumePolicy], pod.Annotations[v1alpha1.MarkConnections] = "Reject", "Close"
	if marked := ResolvePolicy(pod, nil, []v1alpha1.MigrationPolicy{base}); marked.VolumePolicy != v1alpha1.VolumePolicyReject || marked.Connections != v1alpha1.ConnectionsClose {
		t.Errorf("marked: %+v", marked)
	}
	if got.Timeout == nil || got.Timeout.Duration != time.Minute || len(got.Effective.Ignored) != 1 {
		t.Errorf("%+v", got)
	}
	if base.Spec.PreCopy.OnStall != v1alpha1.OnStallAbort {
		t.Error("the policy itself was changed")
	}
}

// Which policy holds does not hang on the order in which the API lists them.
func TestPolicyDoesNotDependOnOrder(t *testing.T) {
	r := rand.New(rand.NewSource(1))
	pick := []*metav1.LabelSelector{nil, {}, selector("app=web"), selector("app=web", "tier=a"), selector("app=db")}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web", "tier": "a"}}}
	for range 500 {
		var list []v1alpha1.MigrationPolicy
		for i := range 1 + r.Intn(6) {
			list = append(list, policy(string(rune('a'+i)), pick[r.Intn(len(pick))], pick[r.Intn(len(pick))], v1alpha1.EvacuationRequired))
		}
		want := ResolvePolicy(pod, map[string]string{"app": "web"}, list).Effective.Policy
		r.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		if got := ResolvePolicy(pod, map[string]string{"app": "web"}, list).Effective.Policy; got != want {
			t.Fatalf("%s in one order, %s in another", want, got)
		}
	}
}
