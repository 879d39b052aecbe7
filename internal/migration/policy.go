// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"godwit.dev/godwit/api/v1alpha1"
)

// Policy is what holds for a pod when its node is drained.
type Policy struct {
	// Effective is what is recorded of it.
	Effective v1alpha1.EffectivePolicy
	// PreCopy, VolumePolicy, Connections and Timeout of the migrations that a drain makes.
	PreCopy      v1alpha1.PreCopySpec
	VolumePolicy v1alpha1.VolumePolicy
	Connections  v1alpha1.ConnectionPolicy
	Timeout      *metav1.Duration
}

// ResolvePolicy finds what holds for a pod: its own marks, else the most specific
// policy that selects it (see v1alpha1.MigrationPolicy), else nothing is moved.
func ResolvePolicy(pod *corev1.Pod, namespaceLabels map[string]string, policies []v1alpha1.MigrationPolicy) Policy {
	p := Policy{Effective: v1alpha1.EffectivePolicy{Evacuation: v1alpha1.EvacuationNone}}
	if best := mostSpecific(pod, namespaceLabels, policies); best != nil {
		p.Effective.Policy = best.Name
		p.Effective.Evacuation = best.Spec.Evacuation
		p.Effective.Priority = best.Spec.Priority
		p.PreCopy = *best.Spec.PreCopy.DeepCopy()
		p.VolumePolicy = best.Spec.VolumePolicy
		p.Connections = best.Spec.Connections
		p.Timeout = best.Spec.Timeout
	}
	for _, m := range marks {
		value, ok := mark(pod, m.name)
		if !ok {
			continue
		}
		if problem := m.apply(&p, value); problem != "" {
			p.Effective.Ignored = append(p.Effective.Ignored, fmt.Sprintf("%s=%s: %s", m.name, Shorten(value, 64), problem))
			continue
		}
		p.Effective.Overrides = append(p.Effective.Overrides, m.name)
	}
	return p
}

func mostSpecific(pod *corev1.Pod, namespaceLabels map[string]string, policies []v1alpha1.MigrationPolicy) *v1alpha1.MigrationPolicy {
	var best *v1alpha1.MigrationPolicy
	for i := range policies {
		p := &policies[i]
		if !selects(p.Spec.NamespaceSelector, namespaceLabels) || !selects(p.Spec.PodSelector, pod.Labels) {
			continue
		}
		if best == nil || compareSpecificity(p, best) < 0 {
			best = p
		}
	}
	return best
}

// compareSpecificity is negative when a goes before b. It is a total order, since
// names are unique.
func compareSpecificity(a, b *v1alpha1.MigrationPolicy) int {
	return cmp.Or(
		cmp.Compare(countRequirements(b.Spec.PodSelector), countRequirements(a.Spec.PodSelector)),
		cmp.Compare(countRequirements(b.Spec.NamespaceSelector), countRequirements(a.Spec.NamespaceSelector)),
		cmp.Compare(a.Name, b.Name))
}

func countRequirements(s *metav1.LabelSelector) int {
	if s == nil {
		return 0
	}
	return len(s.MatchLabels) + len(s.MatchExpressions)
}

// selects: an absent selector selects everything, and one that cannot be read (the
// API refuses most of those) nothing.
func selects(s *metav1.LabelSelector, set map[string]string) bool {
	if s == nil {
		return true
	}
	selector, err := metav1.LabelSelectorAsSelector(s)
	return err == nil && selector.Matches(labels.Set(set))
}

func mark(pod *corev1.Pod, name string) (string, bool) {
	if v, ok := pod.Labels[name]; ok {
		return v, true
	}
	v, ok := pod.Annotations[name]
	return v, ok
}

// marks and what they do. apply says what is wrong with a value.
var marks = []struct {
	name  string
	apply func(*Policy, string) string
}{
	{v1alpha1.MarkEvacuation, func(p *Policy, v string) string {
		return oneOf(&p.Effective.Evacuation, v, v1alpha1.EvacuationRequired, v1alpha1.EvacuationBestEffort, v1alpha1.EvacuationNone)
	}},
	{v1alpha1.MarkPriority, func(p *Policy, v string) string {
		return number(v, -1000, 1000, func(n int32) { p.Effective.Priority = n })
	}},
	{v1alpha1.MarkOnStall, func(p *Policy, v string) string {
		return oneOf(&p.PreCopy.OnStall, v, v1alpha1.OnStallAbort, v1alpha1.OnStallStopAndCopy, v1alpha1.OnStallThrottle)
	}},
	{v1alpha1.MarkTargetDowntime, func(p *Policy, v string) string {
		d, err := time.ParseDuration(v)
		if err != nil || d <= 0 {
			return "it has to be a positive duration, like 500ms"
		}
		p.PreCopy.TargetDowntime = &metav1.Duration{Duration: d}
		return ""
	}},
	{v1alpha1.MarkMaxRounds, func(p *Policy, v string) string {
		return number(v, 0, 16, func(n int32) { p.PreCopy.MaxRounds = &n })
	}},
	{v1alpha1.MarkVolumePolicy, func(p *Policy, v string) string {
		return oneOf(&p.VolumePolicy, v, v1alpha1.VolumePolicyReject, v1alpha1.VolumePolicyHandoff)
	}},
	{v1alpha1.MarkConnections, func(p *Policy, v string) string {
		return oneOf(&p.Connections, v, v1alpha1.ConnectionsClose, v1alpha1.ConnectionsKeep)
	}},
}

func oneOf[T ~string](field *T, value string, known ...T) string {
	if !slices.Contains(known, T(value)) {
		return fmt.Sprintf("it has to be one of %v", known)
	}
	*field = T(value)
	return ""
}

func number(value string, lowest, highest int, set func(int32)) string {
	n, err := strconv.Atoi(value)
	if err != nil || n < lowest || n > highest {
		return fmt.Sprintf("it has to be a number from %d to %d", lowest, highest)
	}
	set(int32(n))
	return ""
}
