// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/migration"
)

// migrationTimeout is how long a migration may take on emulated nodes.
const migrationTimeout = 8 * time.Minute

// Migration describes a migration of a pod. Tests aim at a downtime that the
// fixed cost of a switchover fits into on emulated nodes.
func Migration(namespace, name, pod string, change ...func(*v1alpha1.MigrationSpec)) *v1alpha1.Migration {
	m := &v1alpha1.Migration{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: v1alpha1.MigrationSpec{
			PodName: pod,
			PreCopy: v1alpha1.PreCopySpec{TargetDowntime: &metav1.Duration{Duration: 10 * time.Second}},
		},
	}
	for _, f := range change {
		f(&m.Spec)
	}
	return m
}

// AwaitMigration watches the migration until cond holds. It fails at once when
// the migration finishes without.
func (h *Harness) AwaitMigration(ctx context.Context, m *v1alpha1.Migration, what string, cond func(*v1alpha1.Migration) bool) error {
	err := h.AwaitFor(ctx, migrationTimeout, m, what, func(exists bool) (bool, error) {
		switch {
		case !exists:
			return false, fmt.Errorf("migration %s is gone", m.Name)
		case cond(m):
			return true, nil
		case migration.Finished(m.Status.Phase):
			return false, fmt.Errorf("migration %s is %s", m.Name, m.Status.Phase)
		}
		return false, nil
	})
	if err != nil {
		return fmt.Errorf("%w\n%s", err, Summary(m))
	}
	return nil
}

// AwaitFinished returns when the migration is in a final phase.
func (h *Harness) AwaitFinished(ctx context.Context, m *v1alpha1.Migration) error {
	return h.AwaitMigration(ctx, m, "migration "+m.Name+" to finish", func(m *v1alpha1.Migration) bool {
		return migration.Finished(m.Status.Phase)
	})
}

// Cancel asks for the migration to be cancelled by annotation.
func (h *Harness) Cancel(ctx context.Context, m *v1alpha1.Migration) error {
	return h.annotate(ctx, m, v1alpha1.AnnotationCancel, "true")
}

// Resolve asks, as a person would, that a committed migration whose target is lost
// is decided in this way.
func (h *Harness) Resolve(ctx context.Context, m *v1alpha1.Migration, request v1alpha1.ResolveRequest) error {
	return h.annotate(ctx, m, v1alpha1.AnnotationResolve, string(request))
}

func (h *Harness) annotate(ctx context.Context, m *v1alpha1.Migration, name, value string) error {
	patch := fmt.Appendf(nil, `{"metadata":{"annotations":{%q:%q}}}`, name, value)
	return h.Patch(ctx, m.DeepCopy(), client.RawPatch("application/merge-patch+json", patch))
}

// InPhase is a condition for AwaitMigration: the migration has entered the phase.
func InPhase(phase v1alpha1.MigrationPhase) func(*v1alpha1.Migration) bool {
	return func(m *v1alpha1.Migration) bool { return !migration.EnteredAt(&m.Status, phase).IsZero() }
}

// SourceState is a condition for AwaitMigration: the source reports one of the
// states.
func SourceState(states ...v1alpha1.SourceState) func(*v1alpha1.Migration) bool {
	return func(m *v1alpha1.Migration) bool {
		return m.Status.Source != nil && slices.Contains(states, m.Status.Source.State)
	}
}

// TargetState is a condition for AwaitMigration: the target reports one of the
// states.
func TargetState(states ...v1alpha1.TargetState) func(*v1alpha1.Migration) bool {
	return func(m *v1alpha1.Migration) bool {
		return m.Status.Target != nil && slices.Contains(states, m.Status.Target.State)
	}
}

// Committed is a condition for AwaitMigration: the hand-over is committed.
func Committed(m *v1alpha1.Migration) bool {
	return m.Status.Handover != nil && m.Status.Handover.State == v1alpha1.HandoverCommitted
}

// Summary tells in a few lines how the migration stands, for messages of failed
// tests.
func Summary(m *v1alpha1.Migration) string {
	var b strings.Builder
	s := &m.Status
	fmt.Fprintf(&b, "migration %s of pod %s: %s: %s\n", m.Name, m.Spec.PodName, s.Phase, s.Message)
	if s.Failure != nil {
		fmt.Fprintf(&b, "  failure %s: %s\n", s.Failure.Reason, s.Failure.Message)
	}
	if src := s.Source; src != nil {
		fmt.Fprintf(&b, "  source %s on %s: %s, dirty %s\n", src.PodName, src.NodeName, src.State, src.Dirty)
	}
	if t := s.Target; t != nil {
		fmt.Fprintf(&b, "  target %s on %s: %s, %d rounds verified\n", t.PodName, t.NodeName, t.State, t.VerifiedRounds)
	}
	if ho := s.Handover; ho != nil {
		fmt.Fprintf(&b, "  hand-over %s by %s %s\n", ho.State, ho.By, ho.Message)
	}
	for _, t := range s.PhaseTransitionTimestamps {
		fmt.Fprintf(&b, "  %s %s\n", t.Time.Format("15:04:05.000"), t.Phase)
	}
	return b.String()
}
