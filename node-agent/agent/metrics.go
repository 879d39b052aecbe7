// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
)

var (
	roundDuration = prometheus.NewHistogram(prometheus.HistogramOpts{
		Namespace: "godwit", Subsystem: "agent", Name: "precopy_round_duration_seconds",
		Help: "Duration of pre-copy rounds.", Buckets: prometheus.ExponentialBuckets(0.05, 2, 14),
	})
	roundBytes = prometheus.NewCounter(prometheus.CounterOpts{
		Namespace: "godwit", Subsystem: "agent", Name: "memory_written_bytes_total",
		Help: "Memory written to the volume by rounds and final dumps.",
	})
	finalDumpDuration = prometheus.NewHistogram(prometheus.HistogramOpts{
		Namespace: "godwit", Subsystem: "agent", Name: "freeze_and_dump_duration_seconds",
		Help: "Time from the freeze to the complete image set.", Buckets: prometheus.ExponentialBuckets(0.05, 2, 12),
	})
	restoreDuration = prometheus.NewHistogram(prometheus.HistogramOpts{
		Namespace: "godwit", Subsystem: "agent", Name: "restore_duration_seconds",
		Help: "Time from the start of the restore until the processes ran.", Buckets: prometheus.ExponentialBuckets(0.05, 2, 12),
	})
	restores = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "godwit", Subsystem: "agent", Name: "restores_total",
		Help: "Orders to restore a container, by what it is restored from: merged, on this node, or the chain on the volume.",
	}, []string{"from"})
	downtimeOverPrediction = prometheus.NewHistogram(prometheus.HistogramOpts{
		Namespace: "godwit", Subsystem: "agent", Name: "downtime_over_prediction_ratio",
		Help:    "Measured downtime of migrations from this node, divided by what was predicted right before the freeze.",
		Buckets: []float64{0.25, 0.5, 0.67, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2, 4},
	})
	failures = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "godwit", Subsystem: "agent", Name: "failures_total",
		Help: "Steps given up, by role and reason.",
	}, []string{"role", "reason"})
	imageSetRefusals = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "godwit", Subsystem: "agent", Name: "image_set_refusals_total",
		Help: "Image sets that were not what their source published, by what was found.",
	}, []string{"kind"})
	writesRefused = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "godwit", Subsystem: "agent", Name: "writes_refused_total",
		Help: "Writes that the API server did not allow this agent, by what they were.",
	}, []string{"what"})
	orphansRemoved = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "godwit", Subsystem: "agent", Name: "orphans_removed_total",
		Help: "Things that migrations had left behind and a sweep has removed, by kind.",
	}, []string{"kind"})
	wrapperRequests = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "godwit", Subsystem: "agent", Name: "wrapper_requests_total",
		Help: "Questions of the runtime wrapper, by the agent's verdict.",
	}, []string{"verdict"})
)

func init() {
	metrics.Registry.MustRegister(roundDuration, roundBytes, finalDumpDuration, restoreDuration, restores, downtimeOverPrediction, failures, imageSetRefusals, writesRefused, orphansRemoved, wrapperRequests)
}
