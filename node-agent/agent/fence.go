// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/migration"
	"godwit.dev/godwit/node-agent/runtime"
)

// Kubelet's probes fail while the source is frozen. What the freeze may take of
// their patience is in migration.ProbeBudget; here is what happens at its end.
// See docs/adr/0001-fencing-the-source.md.

// successorInterval is how often to look for the container that kubelet starts
// in place of one that it killed.
const successorInterval = time.Second

// switchoverBudget is what the probes leave for a switchover, 0 for no limit.
func (s *sourceSession) switchoverBudget() time.Duration {
	if b := s.report.ProbeBudget; b != nil {
		return b.Switchover.Duration
	}
	return 0
}

// fence keeps kubelet from starting the source afresh as long as it stands
// frozen or has been handed over, and lets go of it otherwise. After an abort a
// container that was killed is the source's to start anew.
func (s *sourceSession) fence(m *v1alpha1.Migration, o migration.SourceObservation) {
	state := s.report.State
	var err error
	switch {
	case o.PodGone || o.Handover == v1alpha1.HandoverAborted:
		err = s.unfence(m)
	case o.Handover == v1alpha1.HandoverCommitted:
		err = s.guard(m, "it has been handed over to another node")
	case o.Frozen || o.Killed || state == v1alpha1.SourceFrozen || state == v1alpha1.SourceDumped:
		err = s.guard(m, "it is being moved to another node and is frozen")
	default:
		err = s.unfence(m)
	}
	if err != nil {
		// What has to be done for the pod goes on; the next step tries again.
		s.log.Error(err, "fence the source")
	}
}

func (s *sourceSession) guard(m *v1alpha1.Migration, why string) error {
	ref := m.Status.Source.PodRef
	if s.Node.Guard == nil || ref.PodUID == "" {
		return nil
	}
	boot := s.BootID
	if s.fenced != nil {
		boot = s.fenced.BootID // when it was frozen
	}
	return s.Node.Guard.Guard(runtime.Guarded{
		Namespace: s.key.Namespace, Pod: ref.PodName, PodUID: string(ref.PodUID),
		Migration: s.key.Name, MigrationUID: string(s.uid), BootID: boot,
		Why: fmt.Sprintf("Migration %s: %s", s.key, why),
	})
}

func (s *sourceSession) unfence(m *v1alpha1.Migration) error {
	if s.Node.Guard == nil {
		return nil
	}
	return s.Node.Guard.Release(string(m.Status.Source.PodUID))
}

// lostPower: the pod was frozen, or about to be, when its node restarted. Nothing
// is left of its processes, and the guard has seen to it that nothing was begun
// afresh.
func (s *sourceSession) lostPower() bool { return s.fenced != nil && s.fenced.BootID != s.BootID }

// wasKilled: none of the containers that were copied runs any more, though
// nobody has asked for the pod's end.
func (s *sourceSession) wasKilled(pod *corev1.Pod) bool {
	if pod == nil || pod.DeletionTimestamp != nil || s.report.FrozenAt == nil || s.report.ResumedAt != nil || len(s.report.Containers) == 0 {
		return false
	}
	for _, c := range s.report.Containers {
		if slices.ContainsFunc(s.containers, func(r runtime.Container) bool { return r.ID == c.ContainerID }) {
			return false
		}
	}
	return true
}

func (s *sourceSession) killedFailure() *v1alpha1.Failure {
	f := &v1alpha1.Failure{Reason: v1alpha1.ReasonSourceKilled,
		Message: "kubelet killed the frozen source container"}
	if s.lostPower() {
		f.Message = "the source's node restarted while the pod was frozen"
	} else if b := s.report.ProbeBudget; b != nil {
		f.Container = b.Container
		f.Message += fmt.Sprintf(", whose %s probe waits for %s", b.Probe, b.Patience.Duration)
	}
	f.Message += ": unless the target restores it, the process is lost and the container starts from its image"
	return f
}

// budgetSpent: the freeze was ended before the probes ended the container.
func budgetSpent(b *v1alpha1.ProbeBudget) *v1alpha1.Failure {
	return &v1alpha1.Failure{Reason: v1alpha1.ReasonProbeBudgetSpent, Container: b.Container, Message: fmt.Sprintf(
		"the switchover was not done %s after the freeze, and the %s probe of container %q waits for %s only; the source goes on: raise the probe's failureThreshold or see status.target for what took so long",
		b.Switchover.Duration, b.Probe, b.Container, b.Patience.Duration)}
}

// reportKilled tells that the source cannot come back. The register stands: the
// target goes on, and the image set is all there is.
func (s *sourceSession) reportKilled(ctx context.Context, m *v1alpha1.Migration) error {
	f := s.killedFailure()
	s.log.Error(nil, "nothing is left of the frozen source", "reason", f.Reason, "message", f.Message)
	failures.WithLabelValues(string(roleSource), f.Reason).Inc()
	s.report.Failure = f
	s.event(m, evFenced, f.Message)
	return s.publish(ctx)
}

// awaitSuccessor is resume for a source that kubelet killed: nothing is left to
// thaw. The pod's network is connected once kubelet has started the container
// anew, by whose process the network is found.
func (s *sourceSession) awaitSuccessor(ctx context.Context, m *v1alpha1.Migration) (again, error) {
	pod, err := s.pod(ctx, m.Status.Source.PodRef)
	if err != nil {
		return never, err
	}
	ended := pod == nil || pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded
	if len(s.containers) == 0 && !ended {
		// It is created when nothing holds the pod any more.
		return again(successorInterval), s.thawGone(ctx)
	}
	if err := s.letGo(ctx); err != nil {
		return never, err
	}
	if name := s.processLost(); name != "" && s.report.Failure == nil && pod != nil {
		s.failLost(m, name)
	}
	s.report.State = v1alpha1.SourceResumed
	return now, s.publish(ctx)
}

// thawGone lets containers be created in the pod again whose frozen ones are gone.
func (s *sourceSession) thawGone(ctx context.Context) error {
	h, err := s.heldBy(s.uid)
	if err != nil || h == nil {
		return err
	}
	return s.thaw(ctx, h.Containers)
}

// processLost names a container that was frozen and whose process is gone. That
// is no reason not to thaw the others.
func (s *sourceSession) processLost() string {
	if s.report.FrozenAt == nil || s.report.ResumedAt != nil {
		return ""
	}
	here := map[string]bool{}
	for _, c := range s.containers {
		here[c.ID] = true
	}
	for _, c := range s.report.Containers {
		if c.ContainerID != "" && !here[c.ContainerID] {
			return c.Name
		}
	}
	return ""
}

// failLost puts into the report that nothing is left of a frozen process.
func (s *sourceSession) failLost(m *v1alpha1.Migration, container string) {
	f := v1alpha1.Failure{Reason: v1alpha1.ReasonProcessLost, Container: container, Message: fmt.Sprintf(
		"the source was to go on, but the process of container %q that was frozen is gone: its node restarted, or it was killed. Nothing is left of it on either side; kubelet starts the container afresh if its restartPolicy says so", container)}
	s.report.Failure = &f
	failures.WithLabelValues(string(roleSource), f.Reason).Inc()
	s.event(m, evFailed, f.Reason, f.Message)
}

// lookBeforeFreeze reads the migration past the cache. When the answer comes
// from before the switchover, the pod was not frozen when it was asked for.
func (t *targetSession) lookBeforeFreeze(ctx context.Context) (*v1alpha1.Migration, error) {
	asked := t.Now()
	m, err := t.get(ctx, t.Live)
	if err == nil && m.Status.Handover == nil && m.Status.Phase == v1alpha1.PhasePreCopying {
		t.witness.NotBefore = asked
	}
	return m, err
}

// see notes when this node first saw that the source is frozen.
func (t *targetSession) see(m *v1alpha1.Migration) {
	if s := m.Status.Source; s != nil && s.FrozenAt != nil && t.witness.SeenAt.IsZero() {
		t.witness.FrozenAt, t.witness.SeenAt = s.FrozenAt.Time, t.Now()
	}
}

// restoreLimit is how long a restore that began now may take, so that the source
// can still go on after it has failed; an error when that is too little. A
// source that kubelet has killed has nothing to lose any more.
func (t *targetSession) restoreLimit(m *v1alpha1.Migration) (time.Duration, error) {
	s := m.Status.Source
	if s.ProbeBudget == nil || s.Failure != nil && s.Failure.Reason == v1alpha1.ReasonSourceKilled {
		return t.Timeouts.Restore, nil
	}
	limit, ok := migration.RestoreLimit(t.Timeouts.Restore, t.witness.FrozenFor(t.Now()), s.ProbeBudget)
	if !ok {
		return 0, errors.New(budgetSpent(s.ProbeBudget).Message)
	}
	return limit, nil
}

// tooLate fails the parked creates of a commit that has to be taken back.
func (t *targetSession) tooLate(why error) {
	t.restoreFailed = true // also when no create is parked
	t.report.Failure = &v1alpha1.Failure{Reason: v1alpha1.ReasonProbeBudgetSpent, Message: why.Error()}
	t.refuseParked(why)
}
