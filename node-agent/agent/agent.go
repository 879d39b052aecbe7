// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	corev1 "k8s.io/api/core/v1"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/migration"
	"godwit.dev/godwit/node-agent/images"
	"godwit.dev/godwit/node-agent/runtime"
)

// Node is what the engine needs from its node. One value may implement several.
type Node struct {
	Finder       runtime.Finder
	Checkpointer runtime.Checkpointer
	Freezer      runtime.Freezer
	Throttler    runtime.Throttler
	Isolator     runtime.Isolator
	Holder       runtime.Holder
	Separator    runtime.Separator
	Dirty        runtime.DirtyCounter
	Killer       runtime.Killer
	Guard        runtime.Guard
	Files        runtime.Files
	Inspector    runtime.Inspector
	Prober       runtime.NodeProber
}

// Config is what an Agent is made of.
type Config struct {
	// NodeName is the name of the Node object this agent serves.
	NodeName string
	// RunDir is the agent's directory on the node, with the wrapper's socket,
	// marks and work directories.
	RunDir string
	// BootID is the node's boot, which a restart of the agent does not change.
	BootID string
	// BundleDir is where containerd keeps the OCI bundles of Kubernetes'
	// containers, one directory for each id. Default DefaultBundleDir.
	BundleDir string
	// Client reads from caches and writes; Live reads past them.
	Client client.Client
	Live   client.Reader
	// Recorder publishes events.
	Recorder events.EventRecorder
	// Node adapters and the image store on the volume.
	Node  Node
	Store *images.Store
	// Now is the node's clock.
	Now func() time.Time
	// Timeouts; zero values take the defaults.
	Timeouts Timeouts
}

// DefaultBundleDir is containerd's for the namespace of Kubernetes.
const DefaultBundleDir = "/run/containerd/io.containerd.runtime.v2.task/k8s.io"

// Timeouts bound what the target waits for. Both together must stay below
// kubelet's two minutes for creating a container.
type Timeouts struct {
	// Park is how long a create may be parked before it is given back.
	Park time.Duration
	// Restore is how long one restore may take.
	Restore time.Duration
	// Sweep is the time between two searches for orphans.
	Sweep time.Duration
}

// Agent runs the sessions of one node.
type Agent struct {
	Config

	parking *parking
	costs   *costs
	pending pending

	mu       sync.Mutex
	ctx      context.Context
	sessions map[sessionKey]*session
	wg       sync.WaitGroup
}

type role string

const (
	roleSource role = "source"
	roleTarget role = "target"
)

type sessionKey struct {
	uid  types.UID
	role role
}

// session is the running loop of one side of one migration.
type session struct {
	wake chan struct{}
}

// New returns an Agent.
func New(c Config) *Agent {
	if c.Timeouts.Park == 0 {
		c.Timeouts.Park = 60 * time.Second
	}
	if c.Timeouts.Restore == 0 {
		c.Timeouts.Restore = 45 * time.Second
	}
	if c.Timeouts.Sweep == 0 {
		c.Timeouts.Sweep = sweepInterval
	}
	if c.BundleDir == "" {
		c.BundleDir = DefaultBundleDir
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	a := &Agent{Config: c, costs: newCosts(c.RunDir), sessions: map[sessionKey]*session{}}
	a.parking = newParking(a)
	a.pending = pending{sets: map[string]int{}, ended: a.wakeAll}
	return a
}

// SetupWithManager registers the agent's watches and its socket with a manager.
func (a *Agent) SetupWithManager(mgr ctrl.Manager) error {
	if err := errors.Join(mgr.Add(a), mgr.Add(manager.RunnableFunc(a.SweepMarks)), mgr.Add(manager.RunnableFunc(a.Sweep)), a.setupGates(mgr)); err != nil {
		return err
	}
	return ctrl.NewControllerManagedBy(mgr).
		Named("node-agent").
		For(&v1alpha1.Migration{}).
		Watches(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(a.migrationsOfPod)).
		Complete(reconcile.Func(a.Reconcile))
}

// Start serves the wrapper's socket and ends when ctx is done and every session
// has ended. It implements manager.Runnable.
func (a *Agent) Start(ctx context.Context) error {
	a.mu.Lock()
	a.ctx = ctx
	a.mu.Unlock()
	err := a.parking.serve(ctx, a.RunDir)
	a.wg.Wait()
	return err
}

// migrationsOfPod wakes the sessions of a pod that changed on this node.
func (a *Agent) migrationsOfPod(ctx context.Context, pod client.Object) []reconcile.Request {
	var list v1alpha1.MigrationList
	if err := a.Client.List(ctx, &list, client.InNamespace(pod.GetNamespace())); err != nil {
		logr.FromContextOrDiscard(ctx).Error(err, "list migrations")
		return nil
	}
	var reqs []reconcile.Request
	for _, m := range list.Items {
		if concernsPod(&m, pod.GetUID()) {
			reqs = append(reqs, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&m)})
		}
	}
	return reqs
}

func concernsPod(m *v1alpha1.Migration, uid types.UID) bool {
	return m.Status.Source != nil && m.Status.Source.PodUID == uid ||
		m.Status.Target != nil && m.Status.Target.PodUID == uid
}

// Reconcile starts the sessions a Migration needs on this node and wakes the
// running ones. It never blocks: the work is done in the sessions.
func (a *Agent) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	var m v1alpha1.Migration
	if err := a.Client.Get(ctx, req.NamespacedName, &m); err != nil {
		if apierrors.IsNotFound(err) {
			a.wakeAll()
			return reconcile.Result{}, nil
		}
		return reconcile.Result{}, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ctx == nil || a.ctx.Err() != nil {
		// The manager starts runnables in no fixed order.
		return reconcile.Result{RequeueAfter: 100 * time.Millisecond}, nil
	}
	if s := m.Status.Source; s != nil && s.NodeName == a.NodeName && sourceNeeded(&m) {
		a.ensure(&m, roleSource)
	}
	if t := m.Status.Target; t != nil && t.NodeName == a.NodeName && t.PodUID != "" && targetNeeded(&m) {
		a.ensure(&m, roleTarget)
	}
	for _, r := range []role{roleSource, roleTarget} {
		if s := a.sessions[sessionKey{m.UID, r}]; s != nil {
			s.notify()
		}
	}
	return reconcile.Result{}, nil
}

// ensure starts a session unless it runs. Called with a.mu held.
func (a *Agent) ensure(m *v1alpha1.Migration, r role) {
	key := sessionKey{m.UID, r}
	if a.sessions[key] != nil {
		return
	}
	s := &session{wake: make(chan struct{}, 1)}
	a.sessions[key] = s
	log := ctrl.Log.WithName(string(r)).WithValues("migration", client.ObjectKeyFromObject(m).String(), "uid", m.UID)
	ctx := logr.NewContext(a.ctx, log)
	base := sessionBase{Agent: a, session: s, key: client.ObjectKeyFromObject(m), uid: m.UID, log: log}
	a.wg.Add(1)
	go func() {
		defer a.wg.Done()
		defer a.ended(key)
		log.V(1).Info("session begins", "phase", m.Status.Phase)
		if r == roleSource {
			(&sourceSession{sessionBase: base}).run(ctx)
		} else {
			(&targetSession{sessionBase: base}).run(ctx)
		}
		log.V(1).Info("session ended")
	}()
}

func (a *Agent) ended(key sessionKey) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.sessions, key)
}

func (a *Agent) wakeAll() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range a.sessions {
		s.notify()
	}
}

// wakeTarget wakes the target sessions: something changed in the parking.
func (a *Agent) wakeTargets() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for k, s := range a.sessions {
		if k.role == roleTarget {
			s.notify()
		}
	}
}

func (s *session) notify() {
	select {
	case s.wake <- struct{}{}:
	default: // one pending wake-up is enough: the loop looks at everything
	}
}

// sourceNeeded: there is, or may be, something to do on the source node.
func sourceNeeded(m *v1alpha1.Migration) bool {
	if m.Status.Source.State == v1alpha1.SourceCleaned {
		return false
	}
	return !migration.Finished(m.Status.Phase) || m.Status.Handover != nil
}

// targetNeeded: there is, or may be, something to do on the target node.
func targetNeeded(m *v1alpha1.Migration) bool {
	if !migration.Finished(m.Status.Phase) {
		return true
	}
	s := m.Status.Target.State
	return s != "" && s != v1alpha1.TargetRestored && s != v1alpha1.TargetCleaned
}
