// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/migration"
)

// Metrics are the manager's measurements of migrations.
type Metrics struct {
	phases   *prometheus.HistogramVec
	downtime prometheus.Histogram
	parts    *prometheus.HistogramVec
	bytes    prometheus.Histogram
	rounds   prometheus.Histogram
	results  *prometheus.CounterVec
}

// NewMetrics makes the metrics and registers them.
func NewMetrics(reg prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{
		phases: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "godwit_migration_phase_duration_seconds",
			Help:    "How long migrations stayed in a phase before they left it.",
			Buckets: prometheus.ExponentialBuckets(0.1, 2, 14),
		}, []string{"phase"}),
		downtime: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "godwit_migration_downtime_seconds",
			Help:    "How long no process of a migrated pod ran.",
			Buckets: prometheus.ExponentialBuckets(0.05, 2, 12),
		}),
		parts: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "godwit_migration_downtime_part_seconds",
			Help:    "The parts of the downtime: freeze_and_dump, handover, replace (of a pod that keeps its name), restore.",
			Buckets: prometheus.ExponentialBuckets(0.01, 2, 14),
		}, []string{"part"}),
		bytes: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "godwit_migration_transferred_bytes",
			Help:    "Bytes that went through the volume for a migration that moved its pod.",
			Buckets: prometheus.ExponentialBuckets(1<<20, 4, 10),
		}),
		rounds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "godwit_migration_precopy_rounds",
			Help:    "Pre-copy rounds of a migration that moved its pod.",
			Buckets: prometheus.LinearBuckets(0, 1, 17),
		}),
		results: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "godwit_migrations_finished_total",
			Help: "Migrations that ended, by result (the final phase) and the reason of a failure.",
		}, []string{"result", "reason"}),
	}
	for _, c := range []prometheus.Collector{m.phases, m.downtime, m.parts, m.bytes, m.rounds, m.results} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// observe counts what a stored status says and the one before it did not.
func (m *Metrics) observe(before, after *v1alpha1.Migration, now time.Time) {
	from, to := before.Status.Phase, after.Status.Phase
	if from == to {
		return
	}
	if entered := migration.EnteredAt(&before.Status, from); !entered.IsZero() {
		m.phases.WithLabelValues(string(from)).Observe(now.Sub(entered).Seconds())
	}
	if !migration.Finished(to) {
		return
	}
	reason := ""
	if after.Status.Failure != nil {
		reason = after.Status.Failure.Reason
	}
	m.results.WithLabelValues(string(to), reason).Inc()
	if to != v1alpha1.PhaseSucceeded || after.Spec.DryRun {
		return
	}
	m.bytes.Observe(float64(after.Status.BytesTransferred))
	if s := after.Status.Source; s != nil && s.Round != nil {
		m.rounds.Observe(float64(*s.Round))
	}
	if d := after.Status.Downtime; d != nil {
		m.downtime.Observe(d.Total.Seconds())
		m.parts.WithLabelValues("freeze_and_dump").Observe(d.FreezeAndDump.Seconds())
		m.parts.WithLabelValues("handover").Observe(d.Handover.Seconds())
		if d.Replace != nil {
			m.parts.WithLabelValues("replace").Observe(d.Replace.Seconds())
		}
		m.parts.WithLabelValues("restore").Observe(d.Restore.Seconds())
	}
}

// InFlight collects how many Migrations are in each unfinished phase. It
// counts what is in the cache when it is asked: a count kept beside it would be
// wrong after every restart.
type InFlight struct {
	// Reader lists the Migrations.
	Reader client.Reader
}

// listTimeout bounds a collection; the cache answers at once or not at all.
const listTimeout = 5 * time.Second

var inFlight = prometheus.NewDesc("godwit_migrations_in_flight", "Migrations that have not ended, by phase.", []string{"phase"}, nil)

var unfinishedPhases = []v1alpha1.MigrationPhase{
	v1alpha1.PhasePending, v1alpha1.PhasePreparing, v1alpha1.PhasePreCopying,
	v1alpha1.PhaseSwitchingOver, v1alpha1.PhaseReplacing, v1alpha1.PhaseCompleting, v1alpha1.PhaseRollingBack,
}

// Describe implements prometheus.Collector.
func (c InFlight) Describe(ch chan<- *prometheus.Desc) { ch <- inFlight }

// Collect implements prometheus.Collector.
func (c InFlight) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), listTimeout)
	defer cancel()
	var list v1alpha1.MigrationList
	if err := c.Reader.List(ctx, &list); err != nil {
		// The cache has not started. An invalid metric would make the whole
		// page an error; without one the gauge is absent until it has.
		return
	}
	count := map[v1alpha1.MigrationPhase]int{}
	for i := range list.Items {
		phase := list.Items[i].Status.Phase
		if phase == "" {
			phase = v1alpha1.PhasePending
		}
		count[phase]++
	}
	for _, phase := range unfinishedPhases {
		ch <- prometheus.MustNewConstMetric(inFlight, prometheus.GaugeValue, float64(count[phase]), string(phase))
	}
}
