// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"time"

	"godwit.dev/godwit/internal/wire"
)

// holdInterval is how often the end of a wrapper is looked for that this agent
// has no connection to: nothing tells of the end of a lock.
const holdInterval = 200 * time.Millisecond

// createFacts is what the node shows of the creates of one container.
type createFacts struct {
	// waiting: a create is parked with this agent and has been told nothing.
	waiting bool
	// restored: the container's processes have been restored.
	restored bool
	// restoring: a restore is under way, or a wrapper lives that may have been told
	// to begin one.
	restoring bool
	// failed: a restore was ordered and has ended without success.
	failed bool
}

// judgeCreate judges one container. holds have to be read before restored.
func judgeCreate(l *parked, holds []wire.HoldState, restored bool) createFacts {
	f := createFacts{restored: restored}
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
	if restored {
		f.restoring, f.failed = false, false
	}
	return f
}

// createFacts looks at the node for one container of the target pod.
func (t *targetSession) createFacts(name string) createFacts {
	l := t.parking.lot(t.podUID, name)
	holds, err := wire.Holds(t.RunDir, t.podUID, name)
	_, restored, rerr := wire.Restored(t.RunDir, t.podUID, name)
	f := judgeCreate(l, holds, restored)
	if err := errors.Join(err, rerr); err != nil {
		// What cannot be seen may be a restore.
		t.log.Error(err, "cannot look at the creates", "container", name)
		f.restoring = true
	}
	return f
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
		if h.Ordered && !h.Cleared {
			ids = append(ids, h.ContainerID)
		}
		if h.Error != "" {
			said = h.Error
		}
	}
	if l := t.parking.lot(t.podUID, name); l != nil {
		if _, _, _, res := l.state(); res != nil && res.Error != "" {
			said = res.Error
		}
	}
	return ids, said, nil
}
