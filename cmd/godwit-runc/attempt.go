// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"godwit.dev/godwit/internal/failpoint"
	"godwit.dev/godwit/internal/wire"
)

// attempt is a runc that restores, or one that is prepared to and waits.
type attempt struct {
	w    *wrapper
	c    command
	a    createArgs
	im   wire.Images
	rec  *restoring
	log  logPosition
	undo func() error
	// gate where CRIU's stand-in waits, nil when there is none.
	gate *wire.Gate
	// child is nil when it could not be started.
	child *child
	// lifted are limits that are to be put back; waits: runc has come to the gate.
	lifted cgroupLimits
	waits  bool
}

// attempt starts runc's restore, to wait at a gate if gated, or if there are limits to
// lift once the cgroup is there. Without an attempt nothing
// was begun; one that is returned with an error has to be cleared away.
func (w *wrapper) attempt(c command, a createArgs, b *bundle, im *wire.Images, hold *wire.Hold, gated bool) (*attempt, error) {
	rec, err := w.prepare(c, a, b, im, hold)
	if err != nil {
		return nil, err
	}
	at := &attempt{w: w, c: c, a: a, im: *im, rec: rec, log: c.markLog()}
	// A process without such sockets is restored all the same.
	if at.undo, err = allowOldAddresses(b.network()); err != nil {
		_ = c.logWarning(err.Error())
	}
	var env []string
	if gated || b.limited() || len(rec.PodLimits) > 0 {
		if env, err = at.makeGate(); err != nil {
			return at, err
		}
	}
	at.child, err = w.startRestore(c, a, hold, im, rec, env)
	return at, err
}

// makeGate puts CRIU's stand-in in its place, and returns the environment for it.
func (at *attempt) makeGate() ([]string, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("prepare: %w", err)
	}
	dir := filepath.Join(at.im.WorkDir, "stand-in")
	link := filepath.Join(dir, criuName)
	err = os.MkdirAll(dir, modeDir)
	if err == nil {
		if err = os.Symlink(self, link); errors.Is(err, os.ErrExist) {
			err = nil // of an earlier create: the work directory is the container's
		}
	}
	if err == nil {
		at.gate, err = wire.NewGate()
	}
	if err != nil {
		return nil, fmt.Errorf("prepare: %w", err)
	}
	ready, goOn := at.gate.Paths()
	return []string{
		envStandReady + "=" + ready, envStandGo + "=" + goOn,
		envStandImages + "=" + at.im.Dir, envStandLog + "=" + filepath.Join(at.im.WorkDir, criuLogName),
		"PATH=" + dir + ":" + os.Getenv("PATH"),
	}, nil
}

// settled returns when runc waits at the gate, or, with the reason, has failed.
func (at *attempt) settled(ctx context.Context) error {
	if at.child == nil {
		return errors.New("runc was not started")
	}
	err := at.gate.Await(ctx, at.child.ended)
	if errors.Is(err, wire.ErrEnded) {
		err = fmt.Errorf("%w: %s", err, at.reason())
	}
	if err == nil {
		at.waits = true
		at.lift()
	}
	return err
}

// ended is the error of an attempt that has not come to the gate, and is ended.
func (at *attempt) ended(ctx context.Context, err error) error {
	if at.hasEnded() {
		return err
	}
	if ctx.Err() != nil {
		err = errDeadline
	}
	return errors.Join(err, at.w.stop(at.child, at.rec))
}

// lift lifts the limits of the cgroup, which runc has made, and of the pod's. What is
// limited is restored all the same.
func (at *attempt) lift() {
	own, err := limitsOf(at.rec.Cgroup)
	if err == nil {
		at.lifted = own
		maps.Copy(at.lifted, at.rec.PodLimits)
		err = at.lifted.lift()
	}
	if err != nil {
		_ = at.c.logWarning(err.Error())
	}
}

// impose puts the limits back, as soon as CRIU has ended.
func (at *attempt) impose() {
	if err := at.lifted.impose(); err != nil {
		_ = at.c.logWarning(err.Error())
	}
	at.lifted = nil
}

// finish lets runc go on and waits for its end until ctx's, and returns the restored
// process.
func (at *attempt) finish(ctx context.Context) (initProcess, error) {
	defer at.impose()
	if at.gate != nil {
		if !at.waits {
			if err := at.settled(ctx); err != nil {
				return initProcess{}, at.ended(ctx, err)
			}
		}
		if err := at.gate.Open(); err != nil {
			return initProcess{}, err
		}
	}
	if err := at.w.await(ctx, at.child, at.rec); err != nil {
		return initProcess{}, err
	}
	at.impose()
	if at.im.Frozen {
		if err := awaitFrozen(at.rec.Cgroup, at.w.limits.cleanup); err != nil {
			return initProcess{}, err
		}
	}
	failpoint.At("wrapper-restored")
	data, err := os.ReadFile(at.a.pidFile)
	if err != nil {
		return initProcess{}, fmt.Errorf("pid file: %w", err)
	}
	p := initProcess{}
	if p.PID, err = strconv.Atoi(strings.TrimSpace(string(data))); err != nil || p.PID <= 0 {
		return initProcess{}, fmt.Errorf("pid file: %q", data)
	}
	// A process that has ended by now was restored all the same: it ran, and so
	// the source must not go on. Then start fails, as with any such container.
	if st, err := readStat(p.PID); err == nil {
		p.StartTime = st.start
	}
	return p, writeMark(filepath.Join(at.rec.StateDir, restoredMark), p)
}

// explained is the error with what the logs say of it.
func (at *attempt) explained(err error) error {
	return fmt.Errorf("%w%s", err, explain(err, at.log, &at.im))
}

// reason is what the logs say of one that has ended.
func (at *attempt) reason() string {
	if at.child == nil {
		return "runc was not started"
	}
	return fmt.Sprint(at.explained(fmt.Errorf("runc restore: %w", at.child.result)))
}

// close takes back what was allowed for the restore only.
func (at *attempt) close() {
	if at.gate != nil {
		at.gate.Close()
	}
	if err := at.undo(); err != nil {
		_ = at.c.logWarning(err.Error())
	}
}

// clear removes everything that a failed attempt may have left; see [wrapper.clear].
func (at *attempt) clear() error { return at.w.clear(at.c, at.a.id, at.rec) }

// discard ends an attempt that waits, and returns nil when nothing of it is left.
func (at *attempt) discard() error {
	at.close()
	at.impose()
	// CRIU's stand-in sees that, ends, and runc takes back what it has done.
	if at.child != nil {
		select {
		case <-at.child.ended:
		case <-time.After(at.w.limits.cleanup):
			if err := at.w.stop(at.child, at.rec); err != nil {
				return err
			}
		}
	}
	return errors.Join(at.clear(), at.w.dropRecord(at.a.id))
}

// hasEnded says whether runc does not wait any more.
func (at *attempt) hasEnded() bool {
	if at.child == nil {
		return true
	}
	select {
	case <-at.child.ended:
		return true
	default:
		return false
	}
}
