// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package migration

import (
	"fmt"
	"math"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"godwit.dev/godwit/api/v1alpha1"
)

// evacuationTTL is how long an evacuation is kept when it has ended: so long the
// failed attempts count.
const evacuationTTL = time.Hour

// EvacuationName is the name of an evacuation of the pod, of which so many attempts
// have ended before. It hangs on nothing else, so that of two that are created at the
// same moment one is refused.
func EvacuationName(pod *corev1.Pod, ended int) string {
	if ended == 0 {
		return "evacuate-" + string(pod.UID)
	}
	return fmt.Sprintf("evacuate-%s-%d", pod.UID, ended+1)
}

// NewEvacuation is the Migration that moves a pod away from its node. When the node is
// being emptied, the Migration is cancelled with that, as long as it has not begun.
func NewEvacuation(pod *corev1.Pod, p Policy, ended int, nodeDrains bool) *v1alpha1.Migration {
	m := &v1alpha1.Migration{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: EvacuationName(pod, ended),
			Labels: map[string]string{v1alpha1.LabelEvacuationOf: string(pod.UID)}},
		Spec: v1alpha1.MigrationSpec{
			PodName:      pod.Name,
			PreCopy:      p.PreCopy,
			VolumePolicy: p.VolumePolicy,
			Connections:  p.Connections,
			Timeout:      p.Timeout,
			Cause:        v1alpha1.CauseDrain,
			Priority:     p.Effective.Priority,
		},
	}
	ttl := int32(evacuationTTL.Seconds())
	m.Spec.TTLSecondsAfterFinished = &ttl
	// Somebody may also evict a pod from a node that stays in use. A node's name may be
	// longer than a label's value; then the drain's end does not cancel the migration.
	if nodeDrains && len(pod.Spec.NodeName) <= 63 {
		m.Labels[v1alpha1.LabelEvacuationNode] = pod.Spec.NodeName
	}
	return m
}

func underWay(pod *corev1.Pod, m *v1alpha1.Migration) string {
	if m.Labels[v1alpha1.LabelEvacuationOf] != "" {
		return fmt.Sprintf("Eviction triggered evacuation of pod %q: migration %s, %s", podKey(pod), m.Name, Progress(m))
	}
	return fmt.Sprintf("pod %q is being moved away by migration %s, %s", podKey(pod), m.Name, Progress(m))
}

// Progress says in a few words how far a migration is, and what it waits for.
func Progress(m *v1alpha1.Migration) string {
	switch m.Status.Phase {
	case "", v1alpha1.PhasePending:
		if m.Status.Message != "" {
			return m.Status.Message
		}
		return "not begun"
	case v1alpha1.PhasePreparing:
		return "being prepared"
	case v1alpha1.PhasePreCopying:
		return strings.Join(preCopyProgress(m), ", ")
	case v1alpha1.PhaseSwitchingOver:
		return "switching over"
	case v1alpha1.PhaseReplacing:
		return "being replaced by the pod of the same name"
	case v1alpha1.PhaseCompleting:
		return "nearly done"
	case v1alpha1.PhaseRollingBack:
		return "being rolled back"
	}
	return string(m.Status.Phase)
}

func preCopyProgress(m *v1alpha1.Migration) []string {
	s := m.Status.Source
	if s == nil || s.Round == nil {
		return []string{"copying memory"}
	}
	parts := []string{fmt.Sprintf("round %d", *s.Round), s.Dirty + " dirty"}
	if left := timeLeft(s); left > 0 {
		parts = append(parts, fmt.Sprintf("about %ds", int(math.Ceil(left.Seconds()))))
	}
	return parts
}

// timeLeft is what the dirty memory takes to be copied at the bandwidth that was
// measured, and then the switchover as it was predicted; 0 when nothing was.
func timeLeft(s *v1alpha1.SourceStatus) time.Duration {
	c := s.Convergence
	if c == nil || c.BandwidthBytesPerSecond <= 0 || c.PredictedDowntime == nil {
		return 0
	}
	var dirty int64
	for i := range s.Containers {
		if n := len(s.Containers[i].Rounds); n > 0 {
			dirty += s.Containers[i].Rounds[n-1].DirtyBytes
		}
	}
	return time.Duration(float64(dirty)/float64(c.BandwidthBytesPerSecond)*float64(time.Second)) + c.PredictedDowntime.Duration
}
