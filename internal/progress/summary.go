// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package progress

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/migration"
)

// Summary is a migration in numbers. Durations are written like "1.2s".
type Summary struct {
	// Name is "namespace/name" of the Migration.
	Name string `json:"name"`
	// Phase and, when it failed, Failure say how it stands.
	Phase   v1alpha1.MigrationPhase `json:"phase"`
	Message string                  `json:"message,omitempty"`
	Failure *v1alpha1.Failure       `json:"failure,omitempty"`
	// Source and Target are the pods.
	Source v1alpha1.PodRef `json:"source"`
	Target v1alpha1.PodRef `json:"target"`
	// DirtyTracking is false on a node that can only dump once.
	DirtyTracking *bool `json:"dirtyTracking,omitempty"`
	// ResidentBytes is the pod's memory at the preflight.
	ResidentBytes int64 `json:"residentBytes,omitempty"`
	// Rounds of pre-copy, over all containers.
	Rounds []Round `json:"rounds,omitempty"`
	// Final is the dump made while the pod was frozen.
	Final *Dump `json:"finalDump,omitempty"`
	// Downtime and its parts; nil until the target is confirmed.
	Downtime *v1alpha1.DowntimeStatus `json:"downtime,omitempty"`
	// BytesTransferred is everything that went through the volume.
	BytesTransferred int64 `json:"bytesTransferred,omitempty"`
	// Took is the time from the creation to a final phase, 0 until then.
	Took metav1.Duration `json:"took"`
}

// Dump is one dump of all containers of the pod.
type Dump struct {
	// Containers that have finished it.
	Containers int `json:"containers"`
	// Start of the first and Duration until the end of the last container's dump.
	Start    metav1.MicroTime `json:"start"`
	Duration metav1.Duration  `json:"duration"`
	// Frozen is the longest that one container stood still for it.
	Frozen metav1.Duration `json:"frozen"`
	// Pages and bytes, summed over the containers.
	PagesScanned int64 `json:"pagesScanned"`
	PagesSkipped int64 `json:"pagesSkipped"`
	PagesWritten int64 `json:"pagesWritten"`
	MemoryBytes  int64 `json:"memoryBytes"`
	Bytes        int64 `json:"bytes"`
}

// Round is a dump while the pod ran.
type Round struct {
	Index int32 `json:"index"`
	Dump  `json:",inline"`
	// DirtyBytes is the memory that had changed again when the round ended.
	DirtyBytes int64 `json:"dirtyBytes"`
	// PredictedDowntime if the switchover had begun then; the longest of the
	// containers' predictions.
	PredictedDowntime *metav1.Duration `json:"predictedDowntime,omitempty"`
}

// Summarize reads a migration's status.
func Summarize(m *v1alpha1.Migration) Summary {
	s := Summary{
		Name: m.Namespace + "/" + m.Name, Phase: m.Status.Phase, Message: m.Status.Message, Failure: m.Status.Failure,
		Source: v1alpha1.PodRef{PodName: m.Spec.PodName}, Target: v1alpha1.PodRef{NodeName: m.Spec.TargetNode, PodName: m.Spec.TargetPodName},
		Downtime: m.Status.Downtime, BytesTransferred: m.Status.BytesTransferred,
	}
	if t := m.Status.Target; t != nil {
		s.Target = t.PodRef
	}
	if src := m.Status.Source; src != nil {
		s.Source = src.PodRef
		s.DirtyTracking, s.ResidentBytes = src.DirtyTracking, src.ResidentBytes
		s.addContainers(src.Containers)
	}
	if migration.Finished(m.Status.Phase) && m.Status.CompletionTime != nil {
		s.Took.Duration = m.Status.CompletionTime.Sub(m.CreationTimestamp.Time)
	}
	return s
}

func (s *Summary) addContainers(containers []v1alpha1.SourceContainerStatus) {
	for _, c := range containers {
		for _, r := range c.Rounds {
			i := slices.IndexFunc(s.Rounds, func(have Round) bool { return have.Index == r.Index })
			if i < 0 {
				i = len(s.Rounds)
				s.Rounds = append(s.Rounds, Round{Index: r.Index})
			}
			round := &s.Rounds[i]
			round.add(r.DumpStatus)
			round.DirtyBytes += r.DirtyBytes
			if p := r.PredictedDowntime; p != nil && (round.PredictedDowntime == nil || p.Duration > round.PredictedDowntime.Duration) {
				round.PredictedDowntime = p
			}
		}
		if c.FinalDump != nil {
			if s.Final == nil {
				s.Final = &Dump{}
			}
			s.Final.add(*c.FinalDump)
		}
	}
	slices.SortFunc(s.Rounds, func(a, b Round) int { return int(a.Index) - int(b.Index) })
}

// add joins another container's dump: sizes add up, times overlap.
func (d *Dump) add(o v1alpha1.DumpStatus) {
	start, end := d.Start.Time, d.Start.Add(d.Duration.Duration)
	if d.Containers == 0 || o.StartTime.Time.Before(start) {
		start = o.StartTime.Time
	}
	if e := o.StartTime.Add(o.Duration.Duration); d.Containers == 0 || e.After(end) {
		end = e
	}
	d.Containers++
	d.Start, d.Duration.Duration = metav1.NewMicroTime(start), end.Sub(start)
	d.Frozen.Duration = max(d.Frozen.Duration, o.Frozen.Duration)
	d.PagesScanned += o.PagesScanned
	d.PagesSkipped += o.PagesSkipped
	d.PagesWritten += o.PagesWritten
	d.MemoryBytes += o.MemoryBytes
	d.Bytes += o.Bytes
}
