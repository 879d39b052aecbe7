// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"godwit.dev/godwit/internal/wire"
)

var (
	// errAgentGone: no answer from the agent. Without a migration the container
	// is created as usual; otherwise it must not be.
	errAgentGone = errors.New("the node agent does not answer")
	// errRefused: the agent said that the container must not be created.
	errRefused = errors.New("refused by the node agent")
	// errParked: the time for parking is over or the agent went away meanwhile.
	errParked = errors.New("waited in vain for the images")
)

// create decides with the agent what becomes of a create. It returns true when
// runc is to create the container, false when it has been restored. An error
// means that it was neither restored nor may be created.
func (w *wrapper) create(c command) (forward bool, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), w.limits.create)
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
	conn, reply, err := w.ask(ctx, b, id, wire.Request{
		Version: wire.Version, PodUID: id.podUID, ContainerName: id.container,
		SandboxID: id.sandbox, ContainerID: args.id, Bundle: args.bundle,
	})
	if err != nil {
		return w.withoutAgent(b, id, err)
	}
	defer conn.close()
	if reply.Verdict == wire.Park {
		if reply, err = conn.parked(ctx); err != nil {
			return false, err
		}
	}
	switch reply.Verdict {
	case wire.Pass:
		return true, nil
	case wire.Restore:
		return false, w.restore(ctx, c, args, b, id, conn, reply.Images)
	case wire.Fail:
		return false, fmt.Errorf("%w: %s: %s", errRefused, reply.Reason, reply.Message)
	}
	return false, fmt.Errorf("%w: unknown verdict %q", errRefused, reply.Verdict)
}

// withoutAgent: a pod that belongs to no migration is none of ours, and one
// whose images were consumed starts afresh after a crash like any other. What
// is left may be a container to be restored: it must not start from its image.
func (w *wrapper) withoutAgent(b *bundle, id identity, cause error) (forward bool, err error) {
	if !b.migrating() {
		return true, nil
	}
	consumed, err := w.consumed(id)
	if err != nil {
		return false, errors.Join(cause, err)
	}
	if consumed {
		return true, nil
	}
	return false, fmt.Errorf("%w, and container %s belongs to migration %s, which may have to restore it",
		cause, id.container, b.Annotations[annotationMigration])
}

// agentConn is a conversation with the agent.
type agentConn struct {
	*net.UnixConn
	in *wire.Reader
}

func (c *agentConn) close() { _ = c.Close() }

// ask sends the request and returns the first reply. An agent that is not there
// is waited for only by containers that could not do without it.
func (w *wrapper) ask(ctx context.Context, b *bundle, id identity, req wire.Request) (*agentConn, *wire.Reply, error) {
	consumed, err := w.consumed(id)
	patient := b.migrating() && err == nil && !consumed
	giveUp := time.NewTimer(w.limits.agent)
	defer giveUp.Stop()
	// A socket can be seen to appear only by trying it.
	retry := time.NewTicker(100 * time.Millisecond)
	defer retry.Stop()
	for {
		conn, reply, err := w.askOnce(ctx, req)
		if err == nil {
			return conn, reply, nil
		}
		err = fmt.Errorf("%w: %w", errAgentGone, err)
		if !patient || errors.Is(err, wire.ErrVersion) || errors.Is(err, wire.ErrPeer) {
			return nil, nil, err
		}
		select {
		case <-retry.C:
		case <-giveUp.C:
			return nil, nil, err
		case <-ctx.Done():
			return nil, nil, err
		}
	}
}

func (w *wrapper) askOnce(ctx context.Context, req wire.Request) (*agentConn, *wire.Reply, error) {
	ctx, cancel := context.WithTimeout(ctx, w.limits.answer)
	defer cancel()
	uc, err := wire.Dial(ctx, w.runDir)
	if err != nil {
		return nil, nil, err
	}
	conn := &agentConn{uc, wire.NewReader(uc)}
	reply := &wire.Reply{}
	deadline, _ := ctx.Deadline()
	err = conn.SetDeadline(deadline)
	if err == nil {
		err = wire.Write(conn, &req)
	}
	if err == nil {
		err = conn.in.Read(reply)
	}
	if err == nil {
		err = conn.SetDeadline(time.Time{})
	}
	if err != nil {
		conn.close()
		return nil, nil, err
	}
	return conn, reply, nil
}

// parked waits for the reply that ends parking. Only the agent's silence or its
// end bounds it, and kubelet's patience.
func (c *agentConn) parked(ctx context.Context) (*wire.Reply, error) {
	deadline, _ := ctx.Deadline()
	if err := c.SetReadDeadline(deadline); err != nil {
		return nil, fmt.Errorf("%w: %w", errParked, err)
	}
	for {
		reply := &wire.Reply{}
		if err := c.in.Read(reply); err != nil {
			return nil, fmt.Errorf("%w: %w", errParked, err)
		}
		if reply.Verdict != wire.Park {
			return reply, nil
		}
	}
}
