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

// finalDump is one container's share of the switchover, prepared before the freeze.
type finalDump struct {
	container runtime.Container
	options   runtime.DumpOptions
	stats     runtime.DumpStats
}

// switchover freezes the pod, writes the last difference with the dumps that stand
// ready, and publishes its digest. Everything between the freeze and the publication
// is downtime, so all that can be done before is done before.
//
// Until the digest is published nobody can commit, so a failure before lets the
// source go on at once. After the attempt to publish only the register decides.
func (s *sourceSession) switchover(ctx context.Context, m *v1alpha1.Migration) error {
	dumps := s.standby.dumps
	f := &freeze{sourceSession: s, m: m, ctx: ctx, reason: v1alpha1.ReasonFinalDumpFailed}
	digest, bytes, failed, err := s.freezeAndDump(ctx, f)
	if err == nil {
		f.record.Published = true
		failed, err = v1alpha1.ReasonFreezeFailed, s.hold(f.record)
	}
	if err != nil && !f.held {
		return s.fail(ctx, m, failed, "", err)
	}
	if err != nil {
		// Who looks at the deadline first is chance: the dump, or the context.
		late := errors.Is(err, runtime.ErrGivenUp) || !time.Now().Before(f.record.Deadline)
		if late && ctx.Err() == nil && !isNoSpace(err) {
			failed = v1alpha1.ReasonSwitchoverTimeout
			err = fmt.Errorf("the image set was not complete within spec.switchoverTimeout (%s) of the freeze; the source goes on; look at the volume's server and speed: %w", f.timeout, err)
			if f.byProbes {
				spent := budgetSpent(s.report.ProbeBudget)
				failed, err = spent.Reason, fmt.Errorf("%s: %w", spent.Message, err)
			}
		}
		return s.undoFreeze(ctx, m, failed, err)
	}
	failpoint.At("source-sealed")
	dumpedAt := s.Now()
	f.line.mark("sealed", dumpedAt)
	s.publishAttempted = true
	s.report.State = v1alpha1.SourceDumped
	s.report.DumpedAt = microTime(dumpedAt)
	s.report.ManifestDigest = digest
	var memory int64
	for _, d := range dumps {
		st := dumpStatus(d.stats)
		addFiles(&st, s.lastFiles.of(d.container.Name))
		st.Frozen = duration(dumpedAt.Sub(f.at))
		s.container(d.container).FinalDump = &st
		memory += d.stats.MemoryBytes
	}
	s.recordVolumes(s.lastFiles, s.rounds())
	if err := s.publish(ctx); err != nil {
		if errors.Is(err, errGone) && !errors.Is(err, errMaybeStored) {
			// There was nothing any more that the digest could have been written to.
			f.record.Published = false
			err = errors.Join(err, s.hold(f.record))
		}
		return err
	}

	failpoint.At("source-published")
	// The pod is still frozen, but the target works now: nothing here delays it.
	took := dumpedAt.Sub(f.at)
	finalDumpDuration.Observe(took.Seconds())
	roundBytes.Add(float64(memory))
	s.event(m, evDumped, migration.FormatBytes(memory), migration.FormatBytes(bytes), took.Round(time.Millisecond))
	s.log.Info("final dump published", "digest", digest, "memoryBytes", memory, "bytes", bytes, "frozenFor", took,
		"timeline", f.line.mark("published", s.Now()))
	return nil
}

// record is what the node remembers of the freeze.
func (s *sourceSession) record(m *v1alpha1.Migration, deadline time.Time) held {
	return held{
		Namespace: s.key.Namespace, Migration: s.key.Name, UID: s.uid,
		Pod: m.Status.Source.PodName, PodUID: m.Status.Source.PodUID,
		Containers: s.containers, Deadline: deadline,
	}
}

// prepared is what is ready for the freeze.
type prepared struct {
	dumps []*finalDump
	files *fileCopy
}

// prepareFinal makes directories and options while the pod still runs.
func (s *sourceSession) prepareFinal(ctx context.Context, m *v1alpha1.Migration, set *images.Set) (prepared, error) {
	if len(s.containers) == 0 {
		return prepared{}, fmt.Errorf("the pod has no running container on this node: %w", runtime.ErrNotFound)
	}
	containers, rounds, broken := s.containers, int(s.rounds()), s.chainBroken
	return onVolume(ctx, &s.sessionBase, m.Spec.PreCopy.RoundTimeout.Duration, "prepare the final dump", func(ctx context.Context) (p prepared, err error) {
		for _, c := range containers {
			stage, err := s.workDir(c.Name, stageName)
			if err != nil {
				return p, err
			}
			dir, pages, err := set.StageFinal(ctx, c.Name, rounds, stage)
			if err != nil {
				return p, err
			}
			o, err := s.dumpOptions(c.Name, "final", dir)
			if err != nil {
				return p, err
			}
			o.PagesDir = pages
			if rounds > 0 && !broken {
				o.Parent = images.Parent(rounds)
			}
			o.Track = rounds > 0
			p.dumps = append(p.dumps, &finalDump{container: c, options: o})
		}
		p.files, err = s.newFileCopy(ctx, m, containers, func(owner string) (string, error) { return set.PrepareLastFiles(ctx, owner) })
		return p, err
	})
}

// freeze is the beginning of a switchover, and what there is to know of it later.
type freeze struct {
	*sourceSession
	m   *v1alpha1.Migration
	ctx context.Context // of the switchover

	// at is when it began, record what the node remembers of it, once held is set.
	at     time.Time
	record held
	held   bool
	line   timeline
	// timeout of the switchover, by probes or by the specification.
	timeout  time.Duration
	byProbes bool
	// reason of a failure.
	reason string
}

// begin freezes the pod. Every dump stands ready: what is done here first is what
// would have to be undone if there was no dump.
func (f *freeze) begin(dumps *standby) error {
	failpoint.At("source-armed")
	f.reason = v1alpha1.ReasonFreezeFailed
	f.timeout, f.byProbes = migration.SwitchoverLimit(f.m.Spec.SwitchoverTimeout.Duration, f.report.ProbeBudget)
	slow, err := f.throttles().get(f.uid)
	if err != nil {
		return err
	}
	if err := errors.Join(f.sameContainers(), dumps.of(f.containers)); err != nil {
		f.reason = v1alpha1.ReasonSourceChanged
		return err
	}
	f.record = f.sourceSession.record(f.m, time.Now().Add(f.timeout))
	if err := f.hold(f.record); err != nil {
		return err
	}
	f.held = true
	own, err := f.recordLimits(f.ctx)
	if err != nil {
		// Nothing is lifted that was not recorded: the freeze is longer, no more.
		f.log.Error(err, "the pod's CPU limits hold while it is frozen")
		own = &throttled{}
	}
	if err := f.guard(f.m, "it is being moved to another node and is frozen"); err != nil {
		return err
	}
	if c := f.report.Convergence; c != nil {
		c.UnreadBytes = f.unread(f.m.Status.Target)
		// Of what is dirty now; the last count may have been a while ago.
		c.PredictedDowntime = &metav1.Duration{Duration: f.downtime(f.m)}
		if f.chosen != "" {
			c.Message += "; " + f.chosen
			f.chosen = ""
		}
	}
	ctx, cancel := f.limited()
	defer cancel()
	f.at = f.Now()
	f.line.mark("begun", f.at)
	// Cut the network first: what the kernel acknowledges for a frozen process
	// would be lost with it.
	for _, c := range f.containers {
		if err := f.Node.Isolator.Isolate(ctx, c); err != nil {
			return fmt.Errorf("isolate %s: %w", c.Name, err)
		}
	}
	failpoint.At("source-isolated")
	f.line.mark("isolated", f.Now())
	for _, c := range f.containers {
		if err := f.Node.Freezer.Freeze(ctx, c); err != nil {
			return fmt.Errorf("freeze %s: %w", c.Name, err)
		}
	}
	f.line.mark("frozen", f.Now())
	// What follows works within the tasks, and with their CPU time.
	if err := errors.Join(f.giveCPUBack(ctx, slow), f.lift(ctx, own)); err != nil {
		f.log.Error(err, "the dump is slowed down")
	}
	// Of a pod with one container there is nothing to look at.
	n, err := f.Node.Separator.Separate(ctx, f.containers)
	if n > 0 {
		f.line.mark("separated", f.Now())
		f.event(f.m, evSeparated, n)
	}
	if err != nil {
		f.reason = v1alpha1.ReasonForeignUnixPeer
		return fmt.Errorf("end the connections between the containers: %w", err)
	}
	// Tell the world, but do not wait for it.
	f.report.State = v1alpha1.SourceFrozen
	f.report.FrozenAt = microTime(f.at)
	f.publisher.publishSoon(f.ctx, *f.report.DeepCopy(), f.log)
	failpoint.At("source-frozen")
	f.reason = v1alpha1.ReasonFinalDumpFailed
	return nil
}

// limited ends with the switchover's deadline: whatever hangs, the pod is not held for
// longer than that.
func (f *freeze) limited() (context.Context, context.CancelFunc) {
	return context.WithDeadline(f.ctx, f.record.Deadline)
}

// freezeAndDump is the hot path. It returns the manifest's digest and the
// bytes of the whole image set, or the failure's typed reason with the error. It
// ends soon after the deadline of the freeze.
func (s *sourceSession) freezeAndDump(ctx context.Context, f *freeze) (digest string, bytes int64, reason string, err error) {
	b := s.standby
	s.standby = nil
	set, err := s.set()
	if err == nil {
		err = f.begin(b)
	}
	if err != nil {
		b.dismiss(err)
		return "", 0, f.reason, err
	}
	b.release(f.record.Deadline)
	limited, cancel := f.limited()
	defer cancel()
	g, packing := errgroup.WithContext(limited)
	for _, d := range b.dumps {
		over, err := set.FollowFinal(d.container.Name)
		if err == nil { // else it is read afterwards
			defer over()
		}
	}
	g.Go(b.wait)
	files := s.lastFiles
	files.since = s.copied // of a round that was made since, too
	g.Go(func() error {
		_, err := bounded(packing, &s.pending, string(s.uid), "pack the files", func(ctx context.Context) (struct{}, error) {
			return struct{}{}, files.run(ctx, s.Node.Files)
		})
		return err
	})
	if err := g.Wait(); err != nil {
		return "", 0, f.reason, err
	}
	failpoint.At("source-dumped")
	f.line.mark("dumped", s.Now())
	// Whoever kills the source once it was handed over is not to let it run for that.
	for _, c := range s.containers {
		if err := s.Node.Freezer.FreezePod(limited, c); err != nil {
			return "", 0, v1alpha1.ReasonFreezeFailed, fmt.Errorf("freeze the pod of %s: %w", c.Name, err)
		}
	}
	sealed, err := bounded(limited, &s.pending, string(s.uid), "seal the image set", set.Seal)
	if err != nil {
		return "", 0, v1alpha1.ReasonVolumeError, err
	}
	return sealed.Digest, sealed.Bytes, "", nil
}

// undoFreeze lets the source go on after a failure before the digest was
// published: no one can have committed.
func (s *sourceSession) undoFreeze(ctx context.Context, m *v1alpha1.Migration, reason string, cause error) error {
	s.chainBroken = true
	// The agent going down must not leave the pod frozen any longer than needed.
	undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	if err := s.letGo(undo); err != nil {
		return errors.Join(cause, err)
	}
	s.report.State = v1alpha1.SourceConverged
	s.report.ResumedAt = microTime(s.Now())
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return s.fail(ctx, m, reason, "", cause)
}
