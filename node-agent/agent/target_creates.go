// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"godwit.dev/godwit/internal/migration"
	"godwit.dev/godwit/internal/wire"
	"godwit.dev/godwit/node-agent/runtime"
)

// holdInterval is how often the end of a wrapper is looked for that this agent
// has no connection to: nothing tells of the end of a lock.
const holdInterval = 200 * time.Millisecond

// confirmInterval is how often a restored pod is looked at until it is confirmed:
// what containerd takes back nobody tells.
const confirmInterval = time.Second

// createFacts is what the node shows of the creates of one container.
type createFacts struct {
	// waiting: a create is parked with this agent and has been told nothing.
	waiting bool
	// restored: the container was restored, and it runs, or kubelet has seen it
	// run and end.
	restored bool
	// restoring: a restore is under way, or a wrapper lives that may have been told
	// to begin one, or it cannot be told yet how one has ended.
	restoring bool
	// failed: a restore was ordered and has ended without success.
	failed bool
	// marked: what was restored has run, or may have. lost: and it is not there.
	marked, lost bool
	// standing: it was restored, and stands still until all containers of the pod are
	// let go together; since is when its restore was complete.
	standing bool
	since    time.Time
	// settling: its restore is complete, and containerd is about to have it.
	settling bool
}

// treeFacts is what is seen of a container that may have run, or that stands still
// and will.
type treeFacts struct {
	// mark, or the hold of a container that stands still and has none yet.
	mark     wire.HoldState
	unmarked bool
	// runs: containerd has it, and it runs, as far as containerd knows. frozen: it
	// stands still.
	runs, frozen bool
	// ran, never: kubelet has seen it run, or end without having run. ended: it has
	// ended, whatever it has done before.
	ran, never, ended bool
	// hopeless: kubelet will say nothing more.
	hopeless bool
}

// judgeCreate judges one container. holds have to be read before the mark, and
// tree is nil when there is none.
func judgeCreate(l *parked, holds []wire.HoldState, tree *treeFacts) createFacts {
	if tree != nil {
		f := tree.judge()
		f.waiting = l != nil && l.waits()
		for _, h := range holds {
			// Others than the one that stands still, of a container without a mark.
			if tree.unmarked && h.ContainerID != tree.mark.ContainerID && (l == nil || h.ContainerID != l.req.ContainerID) {
				f.restoring = f.restoring || h.Alive
				f.failed = f.failed || h.Ordered && !h.Alive
			}
		}
		return f
	}
	var f createFacts
	var own wire.HoldState // the lot's
	for _, h := range holds {
		switch {
		case l != nil && h.ContainerID == l.req.ContainerID:
			own = h
		case h.Alive:
			// It is not connected: it waits to ask this agent, or carries out an
			// order of the one before. Which of the two cannot be told.
			f.restoring = true
		case h.Ordered:
			f.failed = true
		}
	}
	if l != nil {
		waiting, told, gone, res := l.state()
		f.waiting = waiting
		switch {
		case !told:
		case res != nil:
			f.failed = f.failed || res.Error != ""
			// A wrapper that could not end its runc says so, and ends.
			f.restoring = f.restoring || res.Error != "" && own.Alive && !own.Cleared
		case gone && !own.Alive:
			f.failed = true
		default:
			f.restoring = true
		}
	}
	return f
}

// judge: the mark alone proves nothing. When the wrapper is killed after it, the
// create has failed, and containerd ends what was restored.
func (t *treeFacts) judge() createFacts {
	f := createFacts{marked: !t.unmarked}
	if t.mark.Frozen && t.mark.Result != nil {
		f.since = t.mark.Result.Start.Add(t.mark.Result.Duration)
	}
	switch {
	case t.unmarked && (t.mark.Error != "" || t.mark.Cleared || t.never || t.ended || t.hopeless && !t.runs):
		f.failed = true // it was restored, was ended, and has not run
		f.restoring = t.mark.Alive && !t.mark.Cleared
	case t.unmarked && (t.mark.Alive || !t.runs):
		f.restoring, f.settling = true, t.mark.Result != nil // the create has yet to return, or containerd to have it
	case t.unmarked, t.mark.Frozen && t.runs && t.frozen:
		f.standing = true
	case t.ran, t.runs && t.mark.Result != nil:
		f.restored = true
	case t.mark.Alive:
		f.restoring = true
	case t.mark.Result == nil, t.mark.Error != "", t.never, t.hopeless:
		f.lost = true
	default:
		f.restoring = true // containerd is about to have it, or kubelet to say that it has ended
	}
	return f
}

// createFacts looks at the node for one container of the target pod.
func (t *targetSession) createFacts(ctx context.Context, name string, pod *corev1.Pod) createFacts {
	l := t.parking.lot(t.podUID, name)
	holds, err := wire.Holds(t.RunDir, t.podUID, name)
	tree, terr := t.treeFacts(ctx, name, pod, holds)
	f := judgeCreate(l, holds, tree)
	if err := errors.Join(err, terr); err != nil && ctx.Err() == nil {
		// What cannot be seen may be a restore.
		t.log.Error(err, "cannot look at the creates", "container", name)
		f.restoring, f.restored, f.failed, f.lost, f.standing = true, false, false, false, false
	}
	return f
}

// treeFacts looks what became of a container that may have run, or that was restored
// and stands still; nil when neither is so. holds have to be read before.
func (t *targetSession) treeFacts(ctx context.Context, name string, pod *corev1.Pod, holds []wire.HoldState) (*treeFacts, error) {
	mark, found, err := wire.Mark(t.RunDir, t.podUID, name)
	if err != nil {
		return nil, err
	}
	if !found {
		i := slices.IndexFunc(holds, func(h wire.HoldState) bool { return h.Frozen })
		if i < 0 {
			return nil, nil
		}
		mark = holds[i]
	}
	f := &treeFacts{mark: mark, unmarked: !found, hopeless: pod == nil}
	if mark.Result != nil && t.Now().Sub(mark.Result.Start) > t.Timeouts.Park+t.Timeouts.Restore {
		f.hopeless = true
	}
	if pod != nil {
		if s := migration.ContainerStatus(pod, name); s != nil {
			f.ran, f.never = migration.HasRun(s, mark.ContainerID), migration.NeverRan(s, mark.ContainerID)
			f.ended = migration.HasEnded(s, mark.ContainerID)
		}
	}
	c, err := t.Node.Finder.Container(ctx, mark.ContainerID)
	f.runs = err == nil
	if f.runs && mark.Frozen && found {
		// Let go, or about to be: an agent may have gone away in between.
		f.frozen, err = t.Node.Freezer.Frozen(ctx, c)
	}
	if err != nil && !errors.Is(err, runtime.ErrNotFound) {
		return f, fmt.Errorf("find what was restored: %w", err)
	}
	return f, nil
}

// leftovers are the ids of a container's creates that were told to restore and
// may have left something, and what their wrappers said of the end. A create
// without a hold has begun nothing; of one whose wrapper has seen that nothing is
// left, the bundle may be gone, and with it the way to its cgroup.
func (t *targetSession) leftovers(name string) (ids []string, said string, err error) {
	holds, err := wire.Holds(t.RunDir, t.podUID, name)
	if err != nil {
		return nil, "", err
	}
	for _, h := range holds {
		if h.Ordered && !h.Cleared && (!h.Frozen || t.hasBundle(h.ContainerID)) {
			ids = append(ids, h.ContainerID)
		}
		if h.Error != "" {
			said = h.Error
		}
	}
	mark, found, err := wire.Mark(t.RunDir, t.podUID, name)
	if err != nil {
		return nil, "", err
	}
	if found && mark.Error != "" {
		said = mark.Error
	}
	if found && !mark.Cleared && (mark.Result == nil || t.hasBundle(mark.ContainerID)) {
		ids = append(ids, mark.ContainerID)
	}
	if l := t.parking.lot(t.podUID, name); l != nil {
		if _, _, _, res := l.state(); res != nil && res.Error != "" {
			said = res.Error
		}
	}
	return ids, said, nil
}

// hasBundle says whether containerd has yet to take a container away. Of one that
// was restored and created, it does so only after it has seen it end.
func (t *targetSession) hasBundle(id string) bool {
	_, err := os.Lstat(t.bundle(id))
	return err == nil
}
