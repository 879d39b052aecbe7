// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/progress"
)

// readStatus takes into r what a Migration's status says.
func readStatus(r *result, m *v1alpha1.Migration) {
	s := progress.Summarize(m)
	r.ResidentBytes, r.BytesWritten = s.ResidentBytes, s.BytesTransferred
	for _, round := range s.Rounds {
		d := dumpOf(round.Dump)
		d.DirtyBytes = round.DirtyBytes
		if p := round.PredictedDowntime; p != nil {
			d.PredictedSeconds = p.Seconds()
		}
		r.Rounds = append(r.Rounds, d)
	}
	if s.Final != nil {
		d := dumpOf(*s.Final)
		r.Final = &d
	}
	if d := s.Downtime; d != nil {
		r.Reported = &reported{
			TotalSeconds: d.Total.Seconds(), FreezeAndDumpSeconds: d.FreezeAndDump.Seconds(),
			HandoverSeconds: d.Handover.Seconds(), RestoreSeconds: d.Restore.Seconds(),
		}
		if d.Predicted != nil {
			r.Reported.PredictedSeconds = d.Predicted.Seconds()
		}
	}
	if src := m.Status.Source; src != nil && src.Convergence != nil {
		r.Decision = src.Convergence.Reason
	}
	r.Spans = spans(m)
}

func dumpOf(d progress.Dump) dump {
	return dump{Seconds: d.Duration.Seconds(), FrozenSeconds: d.Frozen.Seconds(), MemoryBytes: d.MemoryBytes, Bytes: d.Bytes}
}

// spans are the parts of a switchover as the agents' timestamps show them, none when
// one of these is missing. Both nodes' clocks follow one server; where they disagree
// by more than a part took, that part has no length.
func spans(m *v1alpha1.Migration) []span {
	src, t := m.Status.Source, m.Status.Target
	if src == nil || t == nil || src.FrozenAt == nil || src.DumpedAt == nil || t.RestoreStartedAt == nil || t.RestoredAt == nil ||
		len(src.Containers) == 0 || len(t.Containers) == 0 {
		return nil
	}
	final, restore := src.Containers[0].FinalDump, t.Containers[0].Restore
	if final == nil || restore == nil {
		return nil
	}
	at := func(moment time.Time) float64 { return moment.Sub(src.FrozenAt.Time).Seconds() }
	end := func(start metav1.MicroTime, d metav1.Duration) float64 { return at(start.Add(d.Duration)) }
	dumped, began, restored := at(src.DumpedAt.Time), at(t.RestoreStartedAt.Time), at(t.RestoredAt.Time)
	marks := []span{
		{Lane: "source", Name: "cut the network and freeze", To: at(final.StartTime.Time)},
		{Lane: "source", Name: "dump", To: end(final.StartTime, final.Duration)},
		{Lane: "source", Name: "files, seal and digest", To: dumped},
		{Lane: "between", Name: "publish, verify and commit", To: began},
		{Lane: "target", Name: "tell the wrapper", To: at(restore.StartTime.Time)},
		{Lane: "target", Name: "restore", To: end(restore.StartTime, restore.Duration)},
		{Lane: "target", Name: "until it is noticed", To: restored},
	}
	var all []span
	from := 0.0
	for _, s := range marks {
		s.From = from
		s.To = max(s.To, from)
		from = s.To
		if s.To > s.From {
			all = append(all, s)
		}
	}
	return all
}
