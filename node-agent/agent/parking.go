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

	corev1 "k8s.io/api/core/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/migration"
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

	told   bool // Restore was sent
	result *wire.Result
	gone   bool
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
	// The wrapper speaks again only when it has restored, or hangs up.
	var res wire.Result
	if err := r.Read(&res); err != nil {
		return fmt.Errorf("parked create of %s: %w", req.ContainerName, err)
	}
	lot.mu.Lock()
	lot.result = &res
	lot.mu.Unlock()
	p.agent.wakeTargets()
	return nil
}

// verdict decides what a create is. Only the API says what is to be restored:
// a Migration whose target is this very pod on this node.
func (p *parking) verdict(ctx context.Context, req wire.Request) wire.Reply {
	m, err := p.migrationOf(ctx, req.PodUID)
	if req.Result != nil {
		if m != nil {
			p.settle(req)
		}
		return wire.Reply{Version: wire.Version, Verdict: wire.Noted}
	}
	reply := p.verdictOf(ctx, m, err, req)
	if req.Parked && reply.Verdict == wire.Pass {
		// Another agent has seen that it is to be restored. That the Migration has
		// ended since then does not let it start from its image.
		return failReply(v1alpha1.ReasonCancelled, "the migration that this create was parked for has ended")
	}
	return reply
}

func (p *parking) verdictOf(ctx context.Context, m *v1alpha1.Migration, err error, req wire.Request) wire.Reply {
	switch {
	case err != nil:
		return failReply(v1alpha1.ReasonAgentError, "cannot tell whether the container is to be restored: "+err.Error())
	case m == nil && p.agent.confirmed(req.PodUID, req.ContainerName):
		return wire.Reply{Version: wire.Version, Verdict: wire.Pass}
	case m == nil:
		return p.withoutMigration(ctx, req)
	}
	consumed := p.agent.consumed(req.PodUID, req.ContainerName)
	if consumed && !targetOwns(m) {
		// It ran here, but the source is not out of the game: a cache that is
		// behind must not keep it from starting again.
		if err := p.agent.Live.Get(ctx, client.ObjectKeyFromObject(m), m); err != nil {
			return failReply(v1alpha1.ReasonAgentError, "cannot tell which side owns the pod: "+err.Error())
		}
	}
	if h := m.Status.Handover; h != nil && h.State == v1alpha1.HandoverAborted {
		return failReply(v1alpha1.ReasonCancelled, fmt.Sprintf("the source keeps the pod of migration %s/%s; this one is being removed", m.Namespace, m.Name))
	}
	t := m.Status.Target
	switch {
	case targetOwns(m):
		// Restored before; this is a restart like any other.
		if err := wire.Confirm(p.agent.RunDir, req.PodUID); err != nil {
			return failReply(v1alpha1.ReasonAgentError, err.Error())
		}
		return wire.Reply{Version: wire.Version, Verdict: wire.Pass}
	case consumed, t.TreeGoneAt != nil, t.State == v1alpha1.TargetRestored && m.Status.Phase == v1alpha1.PhaseSwitchingOver:
		// It ran, or may have (the mark may have gone with a restart of the node),
		// and nobody has confirmed it. What is frozen on the source may be all that is
		// left; a fresh start here would cost it that.
		return failReply(v1alpha1.ReasonProcessLost, fmt.Sprintf("what migration %s/%s had restored is not confirmed to run, and its source is kept; see the migration", m.Namespace, m.Name))
	case m.Status.Phase == v1alpha1.PhaseRollingBack, migration.Finished(m.Status.Phase), t.Failure != nil:
		return failReply(v1alpha1.ReasonCancelled, fmt.Sprintf("migration %s/%s was rolled back; this pod is being removed", m.Namespace, m.Name))
	}
	return wire.Reply{Version: wire.Version, Verdict: wire.Park}
}

// targetOwns says whether the target was confirmed: the source is out of the game.
func targetOwns(m *v1alpha1.Migration) bool {
	return m.Status.Phase == v1alpha1.PhaseCompleting || m.Status.Phase == v1alpha1.PhaseSucceeded
}

// withoutMigration decides a create that no Migration claims. A target that has
// never run was to be restored, and its Migration was removed by force: started
// from its image it would be a second, empty copy. One that has run before was
// restored once, whatever has become of the mark on the node.
func (p *parking) withoutMigration(ctx context.Context, req wire.Request) wire.Reply {
	var pods corev1.PodList
	if err := p.agent.Client.List(ctx, &pods); err != nil {
		return failReply(v1alpha1.ReasonAgentError, "cannot tell whether the container is to be restored: "+err.Error())
	}
	for i := range pods.Items {
		if pod := &pods.Items[i]; string(pod.UID) == req.PodUID && isTarget(pod) && !hasRun(pod, req.ContainerName) {
			return failReply(v1alpha1.ReasonCancelled, "the migration that this pod was made for is gone and it was never restored; delete the pod")
		}
	}
	return wire.Reply{Version: wire.Version, Verdict: wire.Pass}
}

// isTarget says whether a pod was made as the target of a migration: only those
// have the gate.
func isTarget(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Spec.InitContainers, func(c corev1.Container) bool { return c.Name == v1alpha1.GateContainerName })
}

// hasRun says whether kubelet has ever seen a container of a pod run.
func hasRun(pod *corev1.Pod, container string) bool {
	return slices.ContainsFunc(pod.Status.ContainerStatuses, func(s corev1.ContainerStatus) bool {
		return s.Name == container && migration.HasRun(&s, "")
	})
}

// migrationOf finds the Migration whose target is the pod with this UID. The
// cache may be behind, but the gate makes sure that a target's UID has been
// published long before its containers are created; finished ones are the only
// doubt, and for those the mark on the node and the live read decide.
func (p *parking) migrationOf(ctx context.Context, podUID string) (*v1alpha1.Migration, error) {
	var list v1alpha1.MigrationList
	if err := p.agent.Client.List(ctx, &list); err != nil {
		return nil, err
	}
	for i := range list.Items {
		if t := list.Items[i].Status.Target; t != nil && t.NodeName == p.agent.NodeName && string(t.PodUID) == podUID {
			return &list.Items[i], nil
		}
	}
	return nil, nil
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
