// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/migration"
	"godwit.dev/godwit/node-agent/runtime"
)

// sweepInterval is how often the node and the volume are searched for what
// migrations have left behind. A pod that stays frozen for want of a Migration
// is the most pressing of it.
const sweepInterval = 30 * time.Second

// sweeper removes what crashes and forced deletions have left. Sessions remove
// what is theirs; this is for what has no session any more.
type sweeper struct {
	*Agent
	// unknown are the UIDs without a Migration, since when. They are touched only
	// after a restore that may be reading their images must have ended.
	unknown map[types.UID]time.Time
}

// Sweep searches for orphans, at once and then now and then until ctx ends. It
// implements manager.RunnableFunc.
func (a *Agent) Sweep(ctx context.Context) error {
	s := &sweeper{Agent: a, unknown: map[types.UID]time.Time{}}
	for {
		if err := s.sweep(ctx); err != nil && ctx.Err() == nil {
			ctrl.Log.WithName("sweep").Error(err, "sweep")
		}
		t := time.NewTimer(a.Timeouts.Sweep)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-t.C:
		}
	}
}

// sweep does one round. What holds pods up comes first, and what needs the
// volume, which may be away, last. Each kind is tried whatever became of others.
//
// What a later feature does to pods has its place here: it needs records, written
// before it is done, and a function that undoes what is recorded for migrations
// that are over.
func (s *sweeper) sweep(ctx context.Context) error {
	return errors.Join(
		s.sweepHeld(ctx),
		s.sweepGuarded(ctx),
		s.sweepThrottled(ctx),
		s.sweepAddresses(ctx),
		s.sweepParked(ctx),
		s.sweepRestores(ctx),
		s.sweepStanding(ctx),
		s.sweepDirs(ctx, filepath.Join(s.RunDir, workName), "work-directory"),
		s.sweepDirs(ctx, s.Store.LocalDir(), "merged-rounds"),
		s.sweepDirs(ctx, filepath.Join(s.RunDir, "state"), "image-state"),
		s.sweepImages(ctx),
	)
}

// known are the Migrations as the API server has them now, by UID. To be read
// after what is swept was listed: what is made later has a Migration by then.
func (s *sweeper) known(ctx context.Context) (map[types.UID]*v1alpha1.Migration, error) {
	var list v1alpha1.MigrationList
	if err := s.Live.List(ctx, &list); err != nil {
		return nil, fmt.Errorf("list migrations: %w", err)
	}
	known := map[types.UID]*v1alpha1.Migration{}
	for i := range list.Items {
		known[list.Items[i].UID] = &list.Items[i]
	}
	return known, nil
}

// sweepHeld lets pods go on that are frozen for a Migration that is gone. While
// the Migration exists its session decides.
func (s *sweeper) sweepHeld(ctx context.Context) error {
	return undo(ctx, s, s.freezes(), func(_ types.UID, h *held) error {
		_, err := s.releaseOrphan(ctx, h)
		return err
	})
}

// sweepGuarded lets new containers of pods be created whose Migration is gone, or
// is over and has forgotten them. What is held besides is sweepHeld's.
func (s *sweeper) sweepGuarded(ctx context.Context) error {
	if s.Node.Guard == nil {
		return nil
	}
	all, err := s.Node.Guard.Guarded()
	if len(all) == 0 {
		return err
	}
	known, kerr := s.known(ctx)
	if kerr != nil {
		return errors.Join(err, kerr)
	}
	errs := []error{err}
	for _, g := range all {
		uid := types.UID(g.MigrationUID)
		h, err := s.heldBy(uid)
		if err != nil || h != nil || s.runs(uid) || known[uid] != nil && sourceNeeded(known[uid]) {
			errs = append(errs, err)
			continue
		}
		if m := known[uid]; m != nil && m.Status.Handover != nil && m.Status.Handover.State == v1alpha1.HandoverAborted {
			err = s.Node.Guard.Release(g.PodUID)
		} else {
			_, err = s.releaseGuarded(ctx, g)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// sweepThrottled gives pods their CPU time back whose Migration is gone.
func (s *sweeper) sweepThrottled(ctx context.Context) error {
	var errs []error
	for _, records := range []records[throttled]{s.throttles(), s.lifts()} {
		errs = append(errs, undo(ctx, s, records, func(uid types.UID, _ *throttled) error {
			if err := s.unthrottle(ctx, uid); err != nil {
				return err
			}
			orphansRemoved.WithLabelValues("throttle").Inc()
			return nil
		}))
	}
	return errors.Join(errs...)
}

// undo undoes what is recorded for Migrations that are gone.
func undo[T any](ctx context.Context, s *sweeper, r records[T], one func(types.UID, *T) error) error {
	all, err := r.all()
	if len(all) == 0 {
		return err
	}
	known, kerr := s.known(ctx)
	if kerr != nil {
		return errors.Join(err, kerr)
	}
	errs := []error{err}
	for uid, v := range all {
		if known[uid] == nil && !s.runs(uid) {
			errs = append(errs, one(uid, v))
		}
	}
	return errors.Join(errs...)
}

// targetPods are the UIDs of the pods that Migrations have as their targets.
func targetPods(known map[types.UID]*v1alpha1.Migration) map[string]bool {
	targets := map[string]bool{}
	for _, m := range known {
		if m.Status.Target != nil {
			targets[string(m.Status.Target.PodUID)] = true
		}
	}
	return targets
}

// sweepParked gives creates back whose pod is no Migration's target any more.
func (s *sweeper) sweepParked(ctx context.Context) error {
	lots := s.parking.all()
	if len(lots) == 0 {
		return nil
	}
	known, err := s.known(ctx)
	if err != nil {
		return err
	}
	targets := targetPods(known)
	for _, l := range lots {
		if waiting, _, _, _ := l.state(); waiting && !targets[l.req.PodUID] {
			l.fail(v1alpha1.ReasonCancelled, "the migration is gone")
			orphansRemoved.WithLabelValues("parked-create").Inc()
		}
	}
	return nil
}

// sweepRestores clears away what wrappers have left that were killed in the
// middle of a restore and got no successor: their record says so. While a
// migration to this node is under way its session does that.
func (s *sweeper) sweepRestores(ctx context.Context) error {
	dir := filepath.Join(s.RunDir, "restoring")
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || len(entries) == 0 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("sweep: %w", err)
	}
	known, err := s.known(ctx)
	if err != nil {
		return err
	}
	for _, m := range known {
		if m.Status.Target != nil && m.Status.Target.NodeName == s.NodeName && targetNeeded(m) {
			return nil
		}
	}
	var errs []error
	for _, e := range entries {
		fi, err := e.Info()
		// Younger ones may be at work: the wrapper ends its restore in time.
		if err != nil || s.Now().Sub(fi.ModTime()) < s.Timeouts.Park+2*s.Timeouts.Restore {
			continue
		}
		// One that runs was restored; only the record was not taken away in time.
		_, err = s.Node.Finder.Container(ctx, e.Name())
		if errors.Is(err, runtime.ErrNotFound) {
			err = s.Node.Killer.Discard(ctx, e.Name(), filepath.Join(s.BundleDir, e.Name()))
		}
		if err == nil {
			err = os.Remove(filepath.Join(dir, e.Name()))
		}
		if err == nil {
			orphansRemoved.WithLabelValues("restore").Inc()
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// sweepDirs removes the directories of migrations that are over.
func (s *sweeper) sweepDirs(ctx context.Context, dir, kind string) error {
	if dir == "" {
		return nil
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || len(entries) == 0 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("sweep: %w", err)
	}
	known, err := s.known(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		uid := types.UID(e.Name())
		if !s.over(known, uid) {
			continue
		}
		base := sessionBase{Agent: s.Agent, uid: uid}
		if filepath.Base(dir) == workName {
			err = base.removeWork()
		} else {
			err = os.RemoveAll(filepath.Join(dir, e.Name()))
		}
		if err == nil {
			orphansRemoved.WithLabelValues(kind).Inc()
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// sweepImages removes the image sets of migrations that are over. Both agents
// of a migration may do so at once.
func (s *sweeper) sweepImages(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, volumeTimeout)
	defer cancel()
	_, err := bounded(limited, &s.pending, "", "sweep the volume", func(context.Context) (struct{}, error) {
		known := sync.OnceValues(func() (map[types.UID]*v1alpha1.Migration, error) { return s.known(ctx) })
		swept, err := s.Store.Sweep(ctx, func(uid string) bool {
			// Asked only after the volume was listed.
			known, err := known()
			return err != nil || !s.over(known, types.UID(uid)) || s.pending.stuck(uid)
		})
		orphansRemoved.WithLabelValues("image-set").Add(float64(len(swept)))
		_, kerr := known()
		return struct{}{}, errors.Join(err, kerr)
	})
	return err
}

// over says whether a migration has ended for good and nothing on this node may
// still need what it has left.
func (s *sweeper) over(known map[types.UID]*v1alpha1.Migration, uid types.UID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sessions[sessionKey{uid, roleSource}] != nil || s.sessions[sessionKey{uid, roleTarget}] != nil {
		return false
	}
	if m := known[uid]; m != nil {
		delete(s.unknown, uid)
		source := m.Status.Source
		return migration.Finished(m.Status.Phase) &&
			(source == nil || source.State == "" || source.State == v1alpha1.SourceCleaned)
	}
	// While a person has to decide, the images may be all there is.
	if h, err := s.heldBy(uid); h != nil || err != nil {
		return false
	}
	if g, err := s.guardFor(uid); g != nil || err != nil {
		return false
	}
	since, seen := s.unknown[uid]
	if !seen {
		s.unknown[uid] = s.Now()
		return false
	}
	return s.Now().Sub(since) >= s.Timeouts.Restore
}

// runs says whether a migration has a session here that moves the pod away.
func (a *Agent) runs(uid types.UID) bool { return a.has(uid, roleSource) }

// has says whether this side of a migration has a session here.
func (a *Agent) has(uid types.UID, r role) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.sessions[sessionKey{uid, r}] != nil
}
