// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"godwit.dev/godwit/internal/failpoint"
	"godwit.dev/godwit/internal/wire"
)

var (
	// errAgentGone: no answer from the agent. Without a migration the container
	// is created as usual; otherwise it must not be.
	errAgentGone = errors.New("the node agent does not answer")
	// errRefused: the agent said that the container must not be created.
	errRefused = errors.New("refused by the node agent")
	// errParked: the time for parking is over, whether an agent was there or not.
	errParked = errors.New("waited in vain for the images")
	// errHold: the create cannot be shown to the agent, which could then take it
	// for one that has ended.
	errHold = errors.New("cannot show the node agent that a create waits")
)

// create decides with the agent what becomes of a create. It returns true when
// runc is to create the container, false when it has been restored. An error
// means that it was neither restored nor may be created.
func (w *wrapper) create(c command) (forward bool, err error) {
	w.began = time.Now()
	ctx, cancel := context.WithDeadline(context.Background(), w.began.Add(w.limits.create))
	defer cancel()
	args, err := parseCreate(c.rest)
	if err != nil {
		return false, err
	}
	b, err := readBundle(args.bundle)
	if err != nil {
		return false, err
	}
	id, ours, err := b.identify()
	if err != nil {
		return false, err
	}
	if !ours {
		return true, nil
	}
	// Before it is parked: a target that can never be restored must not let its
	// source be frozen.
	if b.configuresCRIU() {
		return false, errCRIUConfig
	}
	req := wire.Request{
		Version: wire.Version, PodUID: id.podUID, ContainerName: id.container,
		SandboxID: id.sandbox, ContainerID: args.id, Bundle: args.bundle,
	}
	hold, err := wire.TakeHold(w.runDir, &req)
	if err != nil {
		return w.withoutAgent(b, id, fmt.Errorf("%w: %w", errHold, err))
	}
	defer func() {
		if rerr := hold.Release(); rerr != nil {
			_ = c.logWarning(rerr.Error())
		}
	}()
	conn, reply, err := w.ask(ctx, &req, w.patience(b, id))
	if err != nil {
		return w.withoutAgent(b, id, err)
	}
	prepared := &preparation{
		begin:    func(im *wire.Images) (*attempt, error) { return w.attempt(c, args, b, im, hold, true) },
		warn:     func(message string) { _ = c.logWarning(message) },
		patience: w.limits.cleanup,
	}
	// Before the hold ends: it shows that there may be a runc.
	defer prepared.drop()
	if reply.Verdict == wire.Park {
		failpoint.At("wrapper-parked")
		if conn, reply, err = w.park(ctx, conn, &req, prepared); err != nil {
			return false, err
		}
	}
	defer conn.close()
	switch reply.Verdict {
	case wire.Pass:
		return true, nil
	case wire.Restore:
		return false, w.restore(ctx, c, args, b, conn, reply.Images, &req, hold, prepared)
	case wire.Fail:
		return false, fmt.Errorf("%w: %s: %s", errRefused, reply.Reason, reply.Message)
	}
	return false, fmt.Errorf("%w: unknown verdict %q", errRefused, reply.Verdict)
}

// withoutAgent: a pod that belongs to no migration is none of ours, and one that
// its migration was confirmed for starts afresh after a crash like any other.
// What is left may be a container to be restored, or one whose source is kept: it
// must not start from its image.
func (w *wrapper) withoutAgent(b *bundle, id identity, cause error) (forward bool, err error) {
	if !b.migrating() {
		return true, nil
	}
	confirmed, err := w.confirmed(id)
	if err != nil {
		return false, errors.Join(cause, err)
	}
	if confirmed {
		return true, nil
	}
	return false, fmt.Errorf("%w, and container %s belongs to migration %s, which may have to restore it, or to let its source go on",
		cause, id.container, b.Annotations[annotationMigration])
}
