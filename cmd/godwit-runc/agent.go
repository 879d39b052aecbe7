// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"godwit.dev/godwit/internal/wire"
)

// retryInterval is how often an agent that is not there is looked for: a socket
// can be seen to appear only by trying it.
const retryInterval = 100 * time.Millisecond

// agentConn is a conversation with the agent.
type agentConn struct {
	*net.UnixConn
	in *wire.Reader
	// sending is held while a message is sent.
	sending sync.Mutex
}

func (c *agentConn) close() { _ = c.Close() }

// patience is how long an agent that is not there is waited for: only
// containers that could not do without it wait.
func (w *wrapper) patience(b *bundle, id identity) time.Duration {
	if confirmed, err := w.confirmed(id); err != nil || confirmed || !b.migrating() {
		return 0
	}
	return w.limits.agent
}

// ask sends the request and returns the first reply, trying again for as long as
// patience and ctx allow.
func (w *wrapper) ask(ctx context.Context, req *wire.Request, patience time.Duration) (*agentConn, *wire.Reply, error) {
	giveUp := time.NewTimer(patience)
	defer giveUp.Stop()
	retry := time.NewTicker(retryInterval)
	defer retry.Stop()
	for {
		conn, reply, err := w.askOnce(ctx, req)
		if err == nil {
			return conn, reply, nil
		}
		err = fmt.Errorf("%w: %w", errAgentGone, err)
		if patience <= 0 || errors.Is(err, wire.ErrVersion) || errors.Is(err, wire.ErrPeer) {
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

func (w *wrapper) askOnce(ctx context.Context, req *wire.Request) (*agentConn, *wire.Reply, error) {
	ctx, cancel := context.WithTimeout(ctx, w.limits.answer)
	defer cancel()
	uc, err := wire.Dial(ctx, w.runDir)
	if err != nil {
		return nil, nil, err
	}
	conn := &agentConn{UnixConn: uc, in: wire.NewReader(uc)}
	reply := &wire.Reply{}
	deadline, _ := ctx.Deadline()
	asked := *req
	asked.Waited = time.Since(w.began)
	err = conn.SetDeadline(deadline)
	if err == nil {
		err = wire.Write(conn, &asked)
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

// park waits for the reply that ends parking. When the agent goes away it asks
// the next one, which takes the create up where it was left: that an agent is
// replaced costs the pod nothing. Only the time for parking bounds it, also when
// the agent is there and silent.
//
// What the agent wants to have prepared is begun at once, and it is told what came of it.
func (w *wrapper) park(ctx context.Context, conn *agentConn, req *wire.Request, prepared *preparation) (*agentConn, *wire.Reply, error) {
	over := fmt.Errorf("none within %s, after which kubelet is let try again", w.limits.park)
	ctx, cancel := context.WithDeadlineCause(ctx, w.began.Add(w.limits.park), over)
	defer cancel()
	// An agent that parks and hangs up at once must not be asked without a pause.
	retry := time.NewTicker(retryInterval)
	defer retry.Stop()
	req.Parked = true
	for {
		reply, err := conn.parked(ctx)
		if err != nil {
			conn.close()
			select {
			case <-retry.C:
				conn, reply, err = w.ask(ctx, req, w.limits.park)
			case <-ctx.Done():
			}
			if err != nil && ctx.Err() != nil {
				// Whatever failed then, failed because of it.
				err = context.Cause(ctx)
			}
			if err != nil {
				return nil, nil, fmt.Errorf("%w: %w", errParked, err)
			}
		}
		switch reply.Verdict {
		case wire.Park:
		case wire.Prepare:
			to, began := conn, time.Now()
			prepared.prepare(reply.Images, w.limits.park, func(err error) { to.tellPrepared(began, err, w.limits.report) })
		case wire.Pass:
			conn.close()
			return nil, nil, fmt.Errorf("%w: it was parked and must not start from its image", errRefused)
		default:
			return conn, reply, nil
		}
	}
}

// parked waits for the next reply until ctx's deadline.
func (c *agentConn) parked(ctx context.Context) (*wire.Reply, error) {
	deadline, _ := ctx.Deadline()
	if err := c.SetReadDeadline(deadline); err != nil {
		return nil, err
	}
	reply := &wire.Reply{}
	if err := c.in.Read(reply); err != nil {
		return nil, err
	}
	return reply, nil
}

// tellPrepared tells the agent what came of a preparation. One that has gone away does
// not need it.
func (c *agentConn) tellPrepared(began time.Time, cause error, limit time.Duration) {
	res := wire.Result{Version: wire.Version, Prepared: true, Start: began, Duration: time.Since(began)}
	if cause != nil {
		res.Error = cause.Error()
	}
	c.sending.Lock()
	defer c.sending.Unlock()
	if c.SetWriteDeadline(time.Now().Add(limit)) == nil {
		_ = wire.Write(c, &res)
	}
}

// tell brings the agent the result of a restore: over the connection that the
// order came over, or, when that agent has gone, to its successor.
func (w *wrapper) tell(conn *agentConn, req *wire.Request, res *wire.Result) error {
	conn.sending.Lock()
	err := conn.SetWriteDeadline(time.Now().Add(w.limits.report))
	if err == nil {
		err = wire.Write(conn, res)
	}
	conn.sending.Unlock()
	if err == nil {
		return nil
	}
	conn.close()
	ctx, cancel := context.WithTimeout(context.Background(), w.limits.report)
	defer cancel()
	again := *req
	again.Result = res
	next, reply, err := w.ask(ctx, &again, w.limits.report)
	if err != nil {
		return fmt.Errorf("tell the agent of the restore: %w", err)
	}
	defer next.close()
	if reply.Verdict != wire.Noted {
		return fmt.Errorf("tell the agent of the restore: it answered %q: %s", reply.Verdict, reply.Message)
	}
	return nil
}
