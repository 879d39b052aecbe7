// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/failpoint"
	"godwit.dev/godwit/internal/migration"
	"godwit.dev/godwit/node-agent/images"
	"godwit.dev/godwit/node-agent/runtime"
)

// endGrace is how long a pre-dump that was told to end may take for it.
const endGrace = 10 * time.Second

// preCopyRound dumps what changed in every container while they run, in
// parallel, then counts what is dirty again and decides.
func (s *sourceSession) preCopyRound(ctx context.Context, m *v1alpha1.Migration) error {
	if len(s.containers) == 0 {
		return s.fail(ctx, m, v1alpha1.ReasonSourceChanged, "", fmt.Errorf("the pod has no running container on this node: %w", runtime.ErrNotFound))
	}
	if err := errors.Join(s.sameContainers(), s.remembered()); err != nil {
		return s.fail(ctx, m, v1alpha1.ReasonSourceChanged, "", err)
	}
	k := s.rounds()
	full := k == 0 || s.chainBroken
	if full && k > 0 {
		s.log.Info("starting the chain again with a full round", "round", k)
	}
	timeout := m.Spec.PreCopy.RoundTimeout.Duration
	roundCtx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	failpoint.At("source-round")
	if err := s.watchCPU(ctx, m); err != nil {
		return err
	}
	begun := s.Now()
	containers := s.containers
	// A pre-dump that is late is ended, which takes a moment.
	dumped, err := onVolume(ctx, &s.sessionBase, timeout+endGrace, "pre-dump", func(context.Context) (roundDump, error) {
		return s.dumpRound(roundCtx, m, containers, int(k), full)
	})
	stats, failed := dumped.stats, dumped.failed
	if err != nil {
		s.chainBroken = true
		if ctx.Err() != nil {
			return ctx.Err()
		}
		reason := v1alpha1.ReasonPreDumpFailed
		if errors.Is(err, errStuck) {
			return err
		}
		if errors.Is(err, runtime.ErrNotPackable) {
			reason = v1alpha1.ReasonFilesNotPortable
		}
		if errors.Is(roundCtx.Err(), context.DeadlineExceeded) && !isNoSpace(err) {
			reason, err = v1alpha1.ReasonRoundTimeout, fmt.Errorf("round %d took longer than preCopy.roundTimeout (%s): %w", k, timeout, err)
		}
		return s.fail(ctx, m, reason, failed, err)
	}
	s.chainBroken = false
	took := s.Now().Sub(begun)
	dirty, err := s.countDirty(ctx)
	if err != nil {
		return err
	}
	s.copied = dumped.files.have
	s.recordRound(k, dumped, dirty)
	s.watch.samples = nil
	s.keepCount()
	if later, err := s.get(ctx, s.Client); err == nil {
		m = later // the target has come meanwhile, or is further
	}
	s.decideConvergence(m)
	if err := s.obeyConvergence(ctx); err != nil {
		return s.fail(ctx, m, v1alpha1.ReasonThrottleFailed, "", err)
	}
	s.setPredicted(k)
	s.observeRound(m, k, stats, took)

	// The finished round never changes: what was not hashed while it was written is now,
	// outside the freeze.
	if _, err := onVolume(ctx, &s.sessionBase, timeout, "read the round", func(ctx context.Context) (struct{}, error) {
		return struct{}{}, s.hashRound(ctx, containers, dumped.files, int(k))
	}); err != nil {
		return s.fail(ctx, m, v1alpha1.ReasonVolumeError, "", err)
	}
	s.watch.published, s.watch.lastBytes = s.Now(), lastBytes(s.report.Containers)
	s.watch.roundTook = s.watch.published.Sub(begun)
	failpoint.At("source-round-done")
	if s.standby == nil {
		return s.publish(ctx)
	}
	// The freeze is next: the world is told, and not waited for.
	s.publisher.publishSoon(ctx, *s.report.DeepCopy(), s.log)
	if _, err := onVolume(ctx, &s.sessionBase, timeout, "let the final dump build on the round", func(context.Context) (struct{}, error) {
		return struct{}{}, s.buildOn(containers, int(k))
	}); err != nil {
		return s.fail(ctx, m, v1alpha1.ReasonVolumeError, "", err)
	}
	return nil
}

// sameContainers: what is in the image set is of the containers that run now.
func (s *sourceSession) sameContainers() error {
	for _, st := range s.report.Containers {
		for _, c := range s.containers {
			if c.Name == st.Name && c.ID != st.ContainerID && len(st.Rounds) > 0 {
				return fmt.Errorf("container %q was restarted since its first round; the pod goes on, try again", c.Name)
			}
		}
	}
	return nil
}

// roundDump is the outcome of the dumps of one round.
type roundDump struct {
	// stats by container, in order.
	stats []runtime.DumpStats
	// files is what was copied of them.
	files *fileCopy
	// failed is the name of the container that failed first, "" if none did.
	failed string
}

// dumpRound runs the pre-dumps of one round side by side, and copies files beside them.
func (s *sourceSession) dumpRound(ctx context.Context, m *v1alpha1.Migration, containers []runtime.Container, k int, full bool) (roundDump, error) {
	set, err := s.set()
	if err != nil {
		return roundDump{}, err
	}
	d := roundDump{stats: make([]runtime.DumpStats, len(containers))}
	g, ctx := errgroup.WithContext(ctx)
	errs := make([]error, len(containers))
	for i, c := range containers {
		g.Go(func() error {
			dir, err := set.PrepareRound(ctx, c.Name, k)
			if err != nil {
				errs[i] = err
				return err
			}
			o, err := s.dumpOptions(c.Name, images.RoundName(k), dir)
			if err != nil {
				errs[i] = err
				return err
			}
			o.Track = true
			if !full {
				o.Parent = images.Parent(k)
			}
			over, err := set.FollowRound(c.Name, k)
			if err != nil {
				errs[i] = err
				return err
			}
			defer over()
			d.stats[i], errs[i] = s.Node.Checkpointer.PreDump(ctx, c, o)
			return errs[i]
		})
	}
	g.Go(func() (err error) {
		d.files, err = s.copyRound(ctx, m, set, containers, k)
		return err
	})
	err = g.Wait()
	for i, e := range errs {
		if e != nil && errors.Is(err, e) {
			d.failed = containers[i].Name
		}
	}
	return d, err
}

func (s *sourceSession) dumpOptions(container, step, imageDir string) (runtime.DumpOptions, error) {
	work, err := s.workDir(container, step)
	if err != nil {
		return runtime.DumpOptions{}, err
	}
	return runtime.DumpOptions{ImageDir: imageDir, WorkDir: work}, nil
}

func (s *sourceSession) hashRound(ctx context.Context, containers []runtime.Container, files *fileCopy, k int) error {
	set, err := s.set()
	if err != nil {
		return err
	}
	for _, c := range containers {
		if err := set.HashRound(ctx, c.Name, k); err != nil {
			return fmt.Errorf("hash round %d of %s: %w", k, c.Name, err)
		}
	}
	return files.hash(ctx, set, k)
}

func (s *sourceSession) recordRound(k int32, d roundDump, dirty []int64) {
	for i, c := range s.containers {
		st := s.container(c)
		round := v1alpha1.RoundStatus{Index: k, DumpStatus: dumpStatus(d.stats[i]), DirtyBytes: dirty[i]}
		addFiles(&round.DumpStatus, d.files.of(c.Name))
		st.Rounds = append(st.Rounds, round)
	}
	s.recordVolumes(d.files, k)
	next := k + 1
	s.report.Round = &next
	s.report.Dirty = migration.FormatBytes(s.dirty)
}

// container is the report's entry of a container, made when it is missing.
func (s *sourceSession) container(c runtime.Container) *v1alpha1.SourceContainerStatus {
	for i := range s.report.Containers {
		if s.report.Containers[i].Name == c.Name {
			return &s.report.Containers[i]
		}
	}
	s.report.Containers = append(s.report.Containers, v1alpha1.SourceContainerStatus{Name: c.Name, ContainerID: c.ID})
	return &s.report.Containers[len(s.report.Containers)-1]
}

// decideConvergence asks the engine and puts its answer into the report.
func (s *sourceSession) decideConvergence(m *v1alpha1.Migration) {
	s.convergence = migration.Converge(s.preCopyInput(m))
	c := s.convergence
	converged := s.report.State == v1alpha1.SourceConverged || s.report.State == v1alpha1.SourceReady
	s.report.Convergence = &v1alpha1.ConvergenceStatus{
		Verdict: c.Verdict, Reason: c.Reason, Message: c.Message,
		PredictedDowntime:       &metav1.Duration{Duration: c.Predicted},
		BandwidthBytesPerSecond: c.Bandwidth, DirtyBytesPerSecond: c.DirtyRate,
	}
	if c.CPUPercent < 100 {
		s.report.Convergence.CPUPercent = &c.CPUPercent
	}
	switch {
	case c.Verdict == v1alpha1.VerdictThrottle:
		s.event(m, evThrottled, c.Message)
		if s.standby == nil {
			s.report.State = v1alpha1.SourcePreCopying
		}
	case c.Verdict == v1alpha1.VerdictSwitch && !converged:
		if t := m.Status.Target; s.rounds() > 0 && !s.chainBroken &&
			migration.Behind(gated(t), s.targetBehind(t), s.rounds(), *m.Spec.PreCopy.MaxRounds) {
			s.report.State = v1alpha1.SourcePreCopying
			break
		}
		s.event(m, evConverged, c.Message)
		s.report.State = v1alpha1.SourceConverged
	case c.Verdict == v1alpha1.VerdictSwitch:
	case c.Verdict == v1alpha1.VerdictStalled:
		s.event(m, evStalled, c.Message)
		s.report.State = v1alpha1.SourceStalled
	case !converged:
		s.report.State = v1alpha1.SourcePreCopying
	}
}

// obeyConvergence slows the pod down, or no longer, as the last decision says.
func (s *sourceSession) obeyConvergence(ctx context.Context) error {
	switch s.convergence.Verdict {
	case v1alpha1.VerdictThrottle:
		return s.throttle(ctx, s.convergence.CPUPercent)
	case v1alpha1.VerdictStalled:
		return s.unthrottle(ctx, s.uid)
	}
	return nil
}

func (s *sourceSession) preCopyInput(m *v1alpha1.Migration) migration.PreCopy {
	maxRounds := *m.Spec.PreCopy.MaxRounds
	if s.report.DirtyTracking != nil && !*s.report.DirtyTracking {
		maxRounds = 0
	}
	cpu := int32(100)
	if c := s.report.Convergence; c != nil && c.CPUPercent != nil {
		cpu = *c.CPUPercent
	}
	p := migration.PreCopy{
		CPUPercent: cpu, Rounds: roundSamples(s.report.Containers), DirtyBytes: s.dirty, FinalOnlyBytes: s.sharedBytes,
		ResidentBytes: s.report.ResidentBytes, Containers: len(s.report.Containers), Costs: s.costs.estimate(),
		Budget: s.switchoverBudget(), TargetBandwidth: s.watch.readRate,
		MaxRounds: maxRounds, TargetDowntime: m.Spec.PreCopy.TargetDowntime.Duration, OnStall: m.Spec.PreCopy.OnStall,
	}
	if s.hurried(p) {
		p.MaxRounds = min(p.MaxRounds, s.rounds())
	}
	return p
}

// roundSamples sums the rounds over the containers; they run side by side, so a
// round takes as long as its longest.
func roundSamples(containers []v1alpha1.SourceContainerStatus) []migration.RoundSample {
	var samples []migration.RoundSample
	for _, c := range containers {
		for i, r := range c.Rounds {
			if i == len(samples) {
				samples = append(samples, migration.RoundSample{})
			}
			samples[i].Bytes += r.MemoryBytes
			samples[i].DirtyBytes += r.DirtyBytes
			samples[i].Duration = max(samples[i].Duration, r.Duration.Duration)
			samples[i].Frozen = max(samples[i].Frozen, r.Frozen.Duration)
		}
	}
	return samples
}

// lastBytes is the memory of the last round.
func lastBytes(containers []v1alpha1.SourceContainerStatus) int64 {
	samples := roundSamples(containers)
	if len(samples) == 0 {
		return 0
	}
	return samples[len(samples)-1].Bytes
}

func (s *sourceSession) setPredicted(k int32) {
	for i := range s.report.Containers {
		rounds := s.report.Containers[i].Rounds
		if n := len(rounds); n > 0 && rounds[n-1].Index == k {
			rounds[n-1].PredictedDowntime = &metav1.Duration{Duration: s.convergence.Predicted}
		}
	}
}

func (s *sourceSession) observeRound(m *v1alpha1.Migration, k int32, stats []runtime.DumpStats, took time.Duration) {
	var bytes int64
	var frozen time.Duration
	for _, st := range stats {
		bytes += st.MemoryBytes
		frozen = max(frozen, st.Frozen)
	}
	roundDuration.Observe(took.Seconds())
	roundBytes.Add(float64(bytes))
	s.event(m, evRound, k, migration.FormatBytes(bytes), took.Round(time.Millisecond), frozen.Round(time.Millisecond), migration.FormatBytes(s.dirty))
	s.log.Info("pre-copy round", "round", k, "bytes", bytes, "duration", took, "frozen", frozen, "dirty", s.dirty,
		"verdict", s.convergence.Verdict, "reason", s.convergence.Reason, "predicted", s.convergence.Predicted)
}

// convergeWithoutRounds: no pre-copy was asked for, or the kernel cannot track.
func (s *sourceSession) convergeWithoutRounds(ctx context.Context, m *v1alpha1.Migration) error {
	if s.report.DirtyTracking != nil && !*s.report.DirtyTracking {
		s.event(m, evNoTrack)
	}
	zero := int32(0)
	s.report.Round = &zero
	s.dirty = s.report.ResidentBytes
	s.report.Dirty = migration.FormatBytes(s.dirty)
	for _, c := range s.containers {
		s.container(c)
	}
	s.decideConvergence(m)
	return s.publish(ctx)
}

// awaitArm decides anew on what is counted while waiting for the target, and
// publishes it when it has changed so much that a person would care.
func (s *sourceSession) awaitArm(ctx context.Context, m *v1alpha1.Migration) (again, error) {
	if s.rounds() == 0 {
		return again(dirtyInterval), nil // nothing is counted
	}
	next := soon(s.watch.due(s.Now(), dirtyInterval))
	s.convergence = migration.Converge(s.preCopyInput(m))
	if s.convergence.Reason == migration.ConvergeAboveBudget {
		// It had converged, and has dirtied more since than its probes allow to
		// be copied while it is frozen.
		s.decideConvergence(m)
		return next, s.publish(ctx)
	}
	if shown := migration.FormatBytes(s.dirty); shown != s.report.Dirty {
		s.report.Dirty = shown
		return next, s.publish(ctx)
	}
	return next, nil
}

func dumpStatus(d runtime.DumpStats) v1alpha1.DumpStatus {
	return v1alpha1.DumpStatus{
		StartTime: metav1.NewMicroTime(d.Start), Duration: duration(d.Duration), Frozen: duration(d.Frozen),
		PagesScanned: d.PagesScanned, PagesSkipped: d.PagesSkipped, PagesWritten: d.PagesWritten,
		MemoryBytes: d.MemoryBytes, Bytes: d.Bytes,
	}
}

// addFiles adds what was copied of files to a dump.
func addFiles(d *v1alpha1.DumpStatus, files *v1alpha1.FilesStatus) {
	if d.Files = files; files != nil {
		d.Bytes += files.Bytes
	}
}
