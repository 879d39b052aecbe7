// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"godwit.dev/godwit/internal/failpoint"
	"godwit.dev/godwit/internal/wire"
)

// errRestore: the restore failed, and nothing of it is left.
var errRestore = errors.New("restore failed")

// restore restores the container from the images and tells the agent how it
// went. When it returns an error nothing of the container is left on the node,
// or the error says what is.
func (w *wrapper) restore(ctx context.Context, c command, a createArgs, b *bundle, conn *agentConn, im *wire.Images, req *wire.Request, hold *wire.Hold, prepared *preparation) error {
	res := &wire.Result{Version: wire.Version, Start: time.Now()}
	err := w.tryRestore(ctx, c, a, b, im, hold, prepared, res)
	if err != nil {
		res.Error = err.Error()
	}
	failpoint.At("wrapper-marked")
	// A help, not a promise: an agent that has gone away finds the same on the
	// node, and the container runs or not all the same.
	if terr := w.tell(conn, req, res); terr != nil {
		_ = c.logWarning(terr.Error())
	}
	return err
}

// tryRestore restores, and leaves on the node how it went: a mark when the
// container has run, or may have, else a hold. Either says how the restore ended
// and whether anything may be left.
func (w *wrapper) tryRestore(ctx context.Context, c command, a createArgs, b *bundle, im *wire.Images, hold *wire.Hold, prepared *preparation, res *wire.Result) error {
	if err := hold.Ordered(); err != nil {
		return fmt.Errorf("%w: %w", errRestore, err)
	}
	if im != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, im.Timeout)
		defer cancel()
	}
	at, err := prepared.take(ctx, im)
	if err != nil {
		err = fmt.Errorf("%w: %w", errRestore, err)
		return errors.Join(err, hold.Failed(err, !errors.Is(err, errNotCleared)))
	}
	if at == nil {
		at, err = w.attempt(c, a, b, im, hold, false)
	}
	if at == nil {
		err = fmt.Errorf("%w: %w", errRestore, err)
		return errors.Join(err, hold.Failed(err, true))
	}
	defer at.close()
	// From here on there is something to clear away.
	failpoint.At("wrapper-restore")
	var p initProcess
	if err == nil {
		p, err = at.finish(ctx)
	}
	if err == nil {
		res.PID, res.Duration = p.PID, time.Since(res.Start)
		if im.Frozen {
			err = hold.Frozen(res)
		} else {
			err = hold.Restored(res)
		}
	}
	if err != nil {
		res.PID, res.Duration = 0, time.Since(res.Start)
		err = fmt.Errorf("%w: %w", errRestore, at.explained(err))
		if cerr := at.clear(); cerr != nil {
			// The record stays: a delete or the agent tries again.
			err = fmt.Errorf("%w; and it could not be cleared away: %w", err, cerr)
			return errors.Join(err, hold.Failed(err, false))
		}
		if criuGaveUp(filepath.Join(im.WorkDir, criuLogName)) {
			err = errors.Join(err, hold.Withdraw())
		}
		return errors.Join(err, hold.Failed(err, true), w.dropRecord(a.id))
	}
	if err := w.dropRecord(a.id); err != nil {
		_ = c.logWarning(err.Error())
	}
	return nil
}

// explain adds what the logs say. After a restore that was ended they tell only
// of its end; then the place it had come to says more.
func explain(err error, log logPosition, im *wire.Images) string {
	criuLog := filepath.Join(im.WorkDir, criuLogName)
	if errors.Is(err, errDeadline) {
		return fmt.Sprintf(" (%s)%s", im.Timeout, criuLast(criuLog))
	}
	return log.lastError() + criuErrors(criuLog)
}

// prepare refuses what cannot be restored or, if it failed, not be cleared
// away, and leaves the record of a restore under way. After an error there is
// nothing to clear away.
func (w *wrapper) prepare(c command, a createArgs, b *bundle, im *wire.Images, hold *wire.Hold) (*restoring, error) {
	if err := b.restorable(a); err != nil {
		return nil, err
	}
	if im == nil || !filepath.IsAbs(im.Dir) || !filepath.IsAbs(im.WorkDir) || im.Timeout <= 0 {
		return nil, fmt.Errorf("%w: incomplete order to restore: %+v", errRefused, im)
	}
	if a.pidFile == "" {
		return nil, fmt.Errorf("%w: create without --pid-file", errUsage)
	}
	cgroup, err := cgroupDir(w.cgroupRoot, b.Linux.CgroupsPath, c.systemdCgroup)
	if err != nil {
		return nil, err
	}
	rec := &restoring{Cgroup: cgroup, StateDir: filepath.Join(c.root, a.id), Rootfs: b.Root.Path, ReadonlyRoot: b.Root.Readonly, Hold: hold.Path(), Mark: hold.MarkPath()}
	// A failure ends whatever is in the cgroup: it must be ours alone.
	if exists(rec.StateDir) {
		return nil, fmt.Errorf("container %s exists already", a.id)
	}
	if exists(cgroup) {
		return nil, fmt.Errorf("%w: %s exists already", errCgroup, cgroup)
	}
	if rec.PodLimits, err = limitsOf(filepath.Dir(cgroup)); err != nil {
		return nil, err
	}
	if err := writeConfig(configPath(im), im.CRIUConfig); err != nil {
		return nil, err
	}
	return rec, writeMarkIn(w.restoringPath(a.id), rec)
}
