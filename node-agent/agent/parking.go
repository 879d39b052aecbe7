// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	ctrl "sigs.k8s.io/controller-runtime"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/wire"
)

// requestTimeout bounds how long a peer may take to send its request.
const requestTimeout = 5 * time.Second

// parking serves the runtime wrapper: it answers every create of a container
// under the godwit handler, and holds the creates that are to become restores.
type parking struct {
	agent *Agent

	mu   sync.Mutex
	lots map[lotKey]*parked
}

type lotKey struct{ podUID, container string }

// parked is one create that waits, or restores.
type parked struct {
	req   wire.Request
	since time.Time

	mu   sync.Mutex
	conn net.Conn

	prepared bool // Prepare was sent
	settled  bool // and was carried out, or has failed
	told     bool // Restore was sent
	result   *wire.Result
	gone     bool
}

func newParking(a *Agent) *parking {
	return &parking{agent: a, lots: map[lotKey]*parked{}}
}

// serve listens until ctx ends. Parked creates are hung up on then: their
// wrappers come again with the same request, to the agent that serves next.
func (p *parking) serve(ctx context.Context, runDir string) error {
	l, err := wire.Listen(runDir)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		conn, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = conn.Close()
			}
			return nil
		case errors.Is(err, wire.ErrPeer):
			wrapperRequests.WithLabelValues("foreign").Inc()
			ctrl.Log.WithName("parking").Info("hung up on a foreign process", "error", err.Error())
			continue
		case err != nil:
			return err
		}
		wg.Add(1)
		go func() {
			defer wg.Done()
			defer conn.Close()
			stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
			defer stop()
			if err := p.converse(ctx, conn); err != nil && ctx.Err() == nil {
				ctrl.Log.WithName("parking").Info("conversation ended", "error", err.Error())
			}
		}()
	}
}

// converse is one conversation with one wrapper.
func (p *parking) converse(ctx context.Context, conn *net.UnixConn) error {
	if err := conn.SetReadDeadline(time.Now().Add(requestTimeout)); err != nil {
		return err
	}
	r := wire.NewReader(conn)
	var req wire.Request
	if err := r.Read(&req); err != nil {
		wrapperRequests.WithLabelValues("invalid").Inc()
		return fmt.Errorf("read request: %w", err)
	}
	if err := conn.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	reply := p.verdict(ctx, req)
	if ctx.Err() != nil {
		return ctx.Err() // the next agent answers
	}
	wrapperRequests.WithLabelValues(string(reply.Verdict)).Inc()
	if reply.Verdict != wire.Park {
		if reply.Verdict == wire.Noted {
			p.agent.wakeTargets()
		}
		return wire.Write(conn, reply)
	}
	lot := &parked{req: req, since: p.agent.Now().Add(-max(req.Waited, 0)), conn: conn}
	if err := p.park(lot); err != nil {
		return wire.Write(conn, failReply(v1alpha1.ReasonAgentError, err.Error()))
	}
	defer p.leave(lot)
	if err := wire.Write(conn, reply); err != nil {
		return err
	}
	p.agent.wakeTargets()
	// The wrapper speaks again only when it has prepared, and restored, or hangs up.
	for {
		var res wire.Result
		if err := r.Read(&res); err != nil {
			return fmt.Errorf("parked create of %s: %w", req.ContainerName, err)
		}
		if res.Prepared {
			ctrl.Log.WithName("parking").Info("a restore was prepared", "pod", req.PodUID, "container", req.ContainerName, "took", res.Duration, "error", res.Error)
			lot.mu.Lock()
			lot.settled = true
			lot.mu.Unlock()
			p.agent.wakeTargets()
			continue
		}
		lot.mu.Lock()
		lot.result = &res
		lot.mu.Unlock()
		p.agent.wakeTargets()
		return nil
	}
}

// consumed says whether the container's image set was used, so that it has run or
// may have. It is not restored again; whether it starts from its image depends on
// who owns the pod.
func (a *Agent) consumed(podUID, container string) bool {
	_, found, err := wire.Mark(a.RunDir, podUID, container)
	return found || err != nil // a mark that cannot be read is one
}

// confirmed says whether the node knows that the target owns the pod: a create is
// a restart like any other.
func (a *Agent) confirmed(podUID, container string) bool {
	mark, found, err := wire.Mark(a.RunDir, podUID, container)
	return found && err == nil && mark.Confirmed
}

// settle takes the result of a restore that an earlier agent ordered, as if this
// one had. The node says the same, but not at once.
func (p *parking) settle(req wire.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := lotKey{req.PodUID, req.ContainerName}
	l := p.lots[key]
	if l == nil {
		l = &parked{req: req, since: p.agent.Now(), told: true, gone: true}
		p.lots[key] = l
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.req.ContainerID == req.ContainerID && l.told && l.result == nil {
		l.result = req.Result
	}
}

// park registers a lot. A second create of the same container takes the place
// of one that only waited: kubelet runs one at a time, so the first one's wrapper
// is dead, or about to be killed. The same create may come twice, when it has
// seen the end of a connection before this agent did. One that was told to
// restore keeps its place until the session has drawn its conclusion: an image
// set is restored once.
func (p *parking) park(l *parked) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := lotKey{l.req.PodUID, l.req.ContainerName}
	if old := p.lots[key]; old != nil {
		old.mu.Lock()
		told := old.told
		old.mu.Unlock()
		switch {
		case told:
			return errors.New("another create of the same container was told to restore")
		case old.req.ContainerID == l.req.ContainerID:
			_ = old.conn.Close()
		case l.req.Parked:
			return errors.New("another create of the same container has come since this one was parked")
		default:
			// Told, not hung up on: it would come again.
			old.fail(v1alpha1.ReasonCancelled, "another create of the same container has come")
		}
	}
	p.lots[key] = l
	return nil
}

func (p *parking) leave(l *parked) {
	l.mu.Lock()
	l.gone = true
	keep := l.told
	l.mu.Unlock()
	if !keep {
		// A lot that was told to restore stays until the session has drawn its
		// conclusion.
		p.drop(l)
	}
	p.agent.wakeTargets()
}

func (p *parking) drop(l *parked) {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := lotKey{l.req.PodUID, l.req.ContainerName}
	if p.lots[key] == l {
		delete(p.lots, key)
	}
}

// lot returns the parked create of a container, nil when there is none.
func (p *parking) lot(podUID, container string) *parked {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lots[lotKey{podUID, container}]
}

// all returns all parked creates.
func (p *parking) all() []*parked {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Collect(maps.Values(p.lots))
}

// ofPod returns all parked creates of a pod.
func (p *parking) ofPod(podUID string) []*parked {
	p.mu.Lock()
	defer p.mu.Unlock()
	var lots []*parked
	for k, l := range p.lots {
		if k.podUID == podUID {
			lots = append(lots, l)
		}
	}
	return lots
}

// prepare tells the wrapper what it will probably have to restore, once. That it does
// not arrive is no failure: a restore needs no preparation.
func (l *parked) prepare(img wire.Images) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.prepared || l.told || l.gone {
		return
	}
	l.prepared = true
	_ = wire.Write(l.conn, wire.Reply{Version: wire.Version, Verdict: wire.Prepare, Images: &img})
}

// isPrepared says whether there is nothing to be told before the restore.
func (l *parked) isPrepared() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.prepared || l.told || l.gone
}

// isSettled says whether nothing of its preparation is under way.
func (l *parked) isSettled() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.settled || l.told || l.gone
}

// restore tells the wrapper to restore. Telling twice is harmless.
func (l *parked) restore(img wire.Images) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.told || l.gone {
		return nil
	}
	if err := wire.Write(l.conn, wire.Reply{Version: wire.Version, Verdict: wire.Restore, Images: &img}); err != nil {
		return err
	}
	l.told = true
	return nil
}

// fail gives a create back: the wrapper fails it and nothing is started.
func (l *parked) fail(reason, message string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.told || l.gone {
		return
	}
	_ = wire.Write(l.conn, failReply(reason, message))
	_ = l.conn.Close()
	l.gone = true
}

// refuse is fail for a create under a committed register: it counts as a
// restore that ended without success.
func (l *parked) refuse(reason, message string) {
	l.fail(reason, message)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.result == nil {
		l.result = &wire.Result{Error: message}
	}
	l.told = true
}

// waits says whether it was told nothing yet.
func (l *parked) waits() bool {
	waiting, _, _, _ := l.state()
	return waiting
}

// state returns whether it still waits, was told to restore and has hung up,
// and its result.
func (l *parked) state() (waiting, told, gone bool, res *wire.Result) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.told && !l.gone, l.told, l.gone, l.result
}

func failReply(reason, message string) wire.Reply {
	return wire.Reply{Version: wire.Version, Verdict: wire.Fail, Reason: reason, Message: message}
}
