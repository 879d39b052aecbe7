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
	filesDir  string
	stats     runtime.DumpStats
	fileBytes int64
}

// switchover freezes the pod, writes the last difference and publishes its
// digest. Everything between the freeze and the publication is downtime, so all
// that can be done before is done before.
//
// Until the digest is published nobody can commit, so a failure before lets the
// source go on at once. After the attempt to publish only the register decides.
func (s *sourceSession) switchover(ctx context.Context, m *v1alpha1.Migration) error {
	if err := s.sameContainers(); err != nil {
		return s.fail(ctx, m, v1alpha1.ReasonSourceChanged, "", err)
	}
	set, err := s.set()
	if err != nil {
		return err
	}
	failpoint.At("source-armed")
	dumps, err := s.prepareFinal(ctx, m, set)
	if errors.Is(err, errStuck) {
		return err
	}
	if err != nil {
		return s.fail(ctx, m, v1alpha1.ReasonFinalDumpFailed, "", err)
	}
	timeout, byProbes := migration.SwitchoverLimit(m.Spec.SwitchoverTimeout.Duration, s.report.ProbeBudget)
	slow, err := s.throttles().get(s.uid)
	if err != nil {
		return s.fail(ctx, m, v1alpha1.ReasonFreezeFailed, "", err)
	}
	record := s.record(m, time.Now().Add(timeout))
	if err := s.hold(record); err != nil {
		return s.fail(ctx, m, v1alpha1.ReasonFreezeFailed, "", err)
	}

	if err := s.guard(m, "it is being moved to another node and is frozen"); err != nil {
		return s.undoFreeze(ctx, m, v1alpha1.ReasonFreezeFailed, err)
	}
	if c := s.report.Convergence; c != nil {
		// Of what is dirty now; the last round may have been a while ago.
		c.PredictedDowntime = &metav1.Duration{Duration: migration.Converge(s.preCopyInput(m)).Predicted}
		if s.chosen != "" {
			c.Message += "; " + s.chosen
			s.chosen = ""
		}
	}
	// Whatever hangs, the pod is not held for longer than this.
	limited, cancel := context.WithDeadline(ctx, record.Deadline)
	defer cancel()
	frozenAt := s.Now()
	digest, bytes, failed, err := s.freezeAndDump(limited, set, dumps, slow, frozenAt)
	if err == nil {
		record.Published = true
		failed, err = v1alpha1.ReasonFreezeFailed, s.hold(record)
	}
	if err != nil {
		// Who looks at the deadline first is chance: the dump, or the context.
		late := errors.Is(err, runtime.ErrGivenUp) || errors.Is(limited.Err(), context.DeadlineExceeded)
		if late && ctx.Err() == nil && !isNoSpace(err) {
			failed = v1alpha1.ReasonSwitchoverTimeout
			err = fmt.Errorf("the image set was not complete within spec.switchoverTimeout (%s) of the freeze; the source goes on; look at the volume's server and speed: %w", timeout, err)
			if byProbes {
				f := budgetSpent(s.report.ProbeBudget)
				failed, err = f.Reason, fmt.Errorf("%s: %w", f.Message, err)
			}
		}
		return s.undoFreeze(ctx, m, failed, err)
	}
	failpoint.At("source-sealed")
	dumpedAt := s.Now()
	s.publishAttempted = true
	s.report.State = v1alpha1.SourceDumped
	s.report.DumpedAt = microTime(dumpedAt)
	s.report.ManifestDigest = digest
	var memory int64
	for _, d := range dumps {
		st := dumpStatus(d.stats)
		st.Bytes += d.fileBytes
		st.Frozen = duration(dumpedAt.Sub(frozenAt))
		s.container(d.container).FinalDump = &st
		memory += d.stats.MemoryBytes
	}
	if err := s.publish(ctx); err != nil {
		if errors.Is(err, errGone) && !errors.Is(err, errMaybeStored) {
			// There was nothing any more that the digest could have been written to.
			record.Published = false
			err = errors.Join(err, s.hold(record))
		}
		return err
	}

	failpoint.At("source-published")
	// The pod is still frozen, but the target works now: nothing here delays it.
	took := dumpedAt.Sub(frozenAt)
	finalDumpDuration.Observe(took.Seconds())
	roundBytes.Add(float64(memory))
	s.event(m, evDumped, migration.FormatBytes(memory), migration.FormatBytes(bytes), took.Round(time.Millisecond))
	s.log.Info("final dump published", "digest", digest, "memoryBytes", memory, "bytes", bytes, "frozenFor", took)
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

// prepareFinal makes directories and options while the pod still runs.
func (s *sourceSession) prepareFinal(ctx context.Context, m *v1alpha1.Migration, set *images.Set) ([]*finalDump, error) {
	if len(s.containers) == 0 {
		return nil, fmt.Errorf("the pod has no running container on this node: %w", runtime.ErrNotFound)
	}
	containers, rounds, broken := s.containers, int(s.rounds()), s.chainBroken
	return onVolume(ctx, &s.sessionBase, m.Spec.PreCopy.RoundTimeout.Duration, "prepare the final dump", func(ctx context.Context) ([]*finalDump, error) {
		var dumps []*finalDump
		for _, c := range containers {
			dir, err := set.PrepareFinal(ctx, c.Name)
			if err != nil {
				return nil, err
			}
			files, err := set.PrepareFiles(ctx, c.Name)
			if err != nil {
				return nil, err
			}
			o, err := s.dumpOptions(c.Name, "final", dir)
			if err != nil {
				return nil, err
			}
			if rounds > 0 && !broken {
				o.Parent = images.Parent(rounds)
			}
			o.Track = rounds > 0
			dumps = append(dumps, &finalDump{container: c, options: o, filesDir: files})
		}
		return dumps, nil
	})
}

// freezeAndDump is the hot path. It returns the manifest's digest and the
// bytes of the whole image set, or the failure's typed reason with the error. It
// ends soon after the deadline of ctx.
func (s *sourceSession) freezeAndDump(ctx context.Context, set *images.Set, dumps []*finalDump, slow *throttled, frozenAt time.Time) (digest string, bytes int64, reason string, err error) {
	// Cut the network first: what the kernel acknowledges for a frozen process
	// would be lost with it.
	for _, d := range dumps {
		if err := s.Node.Isolator.Isolate(ctx, d.container); err != nil {
			return "", 0, v1alpha1.ReasonFreezeFailed, fmt.Errorf("isolate %s: %w", d.container.Name, err)
		}
	}
	failpoint.At("source-isolated")
	for _, d := range dumps {
		if err := s.Node.Freezer.Freeze(ctx, d.container); err != nil {
			return "", 0, v1alpha1.ReasonFreezeFailed, fmt.Errorf("freeze %s: %w", d.container.Name, err)
		}
	}
	// CRIU works within the tasks, and with their CPU time.
	if err := s.giveCPUBack(ctx, slow); err != nil {
		s.log.Error(err, "the dump is slowed down")
	}
	// Tell the world, but do not wait for it.
	s.report.State = v1alpha1.SourceFrozen
	s.report.FrozenAt = microTime(frozenAt)
	s.publisher.publishSoon(ctx, *s.report.DeepCopy(), s.log)

	failpoint.At("source-frozen")
	deadline, _ := ctx.Deadline()
	g, gctx := errgroup.WithContext(ctx)
	for _, d := range dumps {
		g.Go(func() (err error) {
			d.options.Deadline = deadline
			d.stats, err = s.Node.Checkpointer.Dump(gctx, d.container, d.options)
			return err
		})
		g.Go(func() (err error) {
			d.fileBytes, err = bounded(gctx, &s.pending, string(s.uid), "pack "+d.container.Name, func(ctx context.Context) (int64, error) {
				return s.Node.Files.Pack(ctx, d.container, d.filesDir)
			})
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return "", 0, v1alpha1.ReasonFinalDumpFailed, err
	}
	failpoint.At("source-dumped")
	sealed, err := bounded(ctx, &s.pending, string(s.uid), "seal the image set", set.Seal)
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
