// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/api/v1alpha1"
)

// lister answers with Migrations in these phases, or an error.
type lister struct {
	client.Reader
	phases []v1alpha1.MigrationPhase
	err    error
}

func (l lister) List(_ context.Context, list client.ObjectList, _ ...client.ListOption) error {
	for _, p := range l.phases {
		list.(*v1alpha1.MigrationList).Items = append(list.(*v1alpha1.MigrationList).Items, v1alpha1.Migration{Status: v1alpha1.MigrationStatus{Phase: p}})
	}
	return l.err
}

func TestInFlightCountsUnfinishedMigrations(t *testing.T) {
	f := &fixture{T: t, registry: prometheus.NewRegistry()}
	f.must(f.registry.Register(InFlight{Reader: lister{phases: []v1alpha1.MigrationPhase{"", v1alpha1.PhasePending, v1alpha1.PhaseRollingBack,
		v1alpha1.PhaseSucceeded, v1alpha1.PhaseFailed}}}), "register")
	for phase, want := range map[v1alpha1.MigrationPhase]float64{v1alpha1.PhasePending: 2, v1alpha1.PhaseRollingBack: 1, v1alpha1.PhasePreCopying: 0} {
		m := f.metric("godwit_migrations_in_flight", "phase", string(phase))
		if m.Gauge == nil || m.GetGauge().GetValue() != want {
			t.Errorf("%s: %v, want %v", phase, m, want)
		}
	}
	if m := f.metric("godwit_migrations_in_flight", "phase", string(v1alpha1.PhaseSucceeded)); m.Gauge != nil {
		t.Errorf("finished migrations are counted: %v", m)
	}
}

// The rest of the page must be served while the cache is not ready.
func TestInFlightIsAbsentWithoutACache(t *testing.T) {
	f := &fixture{T: t, registry: prometheus.NewRegistry()}
	f.must(f.registry.Register(InFlight{Reader: lister{err: errors.New("not started")}}), "register")
	if m := f.metric("godwit_migrations_in_flight"); m.Gauge != nil {
		t.Errorf("got %v", m)
	}
}

func TestMetricsAreRegisteredOnce(t *testing.T) {
	reg := prometheus.NewRegistry()
	if _, err := NewMetrics(reg); err != nil {
		t.Fatal(err)
	}
	if _, err := NewMetrics(reg); err == nil {
		t.Error("no error for the second time")
	}
}
