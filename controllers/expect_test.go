// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	dto "github.com/prometheus/client_model/go"
)

// describe shows two maps of lists beside each other.
func describe(got, want map[string][]string) string {
	var b strings.Builder
	for _, key := range slices.Sorted(maps.Keys(want)) {
		fmt.Fprintf(&b, "%s: got %v, want %v\n", key, slices.Sorted(slices.Values(got[key])), slices.Sorted(slices.Values(want[key])))
	}
	return b.String()
}

// checkMetrics looks at the metrics of one successful migration.
func (f *fixture) checkMetrics() {
	f.Helper()
	// Metrics are counted after the phase is stored; the downtime is the last of
	// those that are looked at here.
	downtime := func() *dto.Histogram { return f.metric("godwit_migration_downtime_seconds").GetHistogram() }
	f.until("the downtime to be counted", func() bool { return downtime().GetSampleCount() > 0 }, func() string { return downtime().String() })
	if got := downtime(); got.GetSampleCount() != 1 || got.GetSampleSum() != 1.7 {
		f.Errorf("downtime = %v", got)
	}
	if got := f.metric("godwit_migration_precopy_rounds").GetHistogram(); got.GetSampleCount() != 1 || got.GetSampleSum() != 2 {
		f.Errorf("rounds = %v", got)
	}
	if got := f.metric("godwit_migration_transferred_bytes").GetHistogram(); got.GetSampleSum() != 7<<20 {
		f.Errorf("bytes = %v", got)
	}
	if got := f.metric("godwit_migrations_finished_total", "result", "Succeeded", "reason", ""); got.GetCounter().GetValue() != 1 {
		f.Errorf("results = %v", got)
	}
	if got := f.metric("godwit_migration_phase_duration_seconds", "phase", "PreCopying").GetHistogram(); got.GetSampleCount() != 1 {
		f.Errorf("phase durations = %v", got)
	}
}

// metric finds a metric of that name and labels; an empty one when there is none.
func (f *fixture) metric(name string, labels ...string) *dto.Metric {
	f.Helper()
	families, err := f.registry.Gather()
	f.must(err, "gather metrics")
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.GetMetric() {
			values := map[string]string{}
			for _, l := range m.GetLabel() {
				values[l.GetName()] = l.GetValue()
			}
			matches := true
			for i := 0; i < len(labels); i += 2 {
				matches = matches && values[labels[i]] == labels[i+1]
			}
			if matches {
				return m
			}
		}
	}
	return &dto.Metric{}
}
